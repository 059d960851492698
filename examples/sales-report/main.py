"""sales-report: revenue by region from a CSV it ships, with pandas. pagurus invoke sales-report '{"top": 2}'

By hand, from sales.csv: north 10*2.50 + 4*12.00 + 7*2.50 = 90.50, south 3*12.00 + 20*2.50 = 86.00,
east 1*99.90 + 2*12.00 = 123.90, west 8*2.50 + 5*12.00 = 80.00; together 380.40.
"""

from pathlib import Path

import numpy as np
import pandas as pd

SALES = Path(__file__).with_name("sales.csv")


def main(param):
    top = (param or {}).get("top", 4)
    sales = pd.read_csv(SALES)
    sales["revenue"] = sales["units"] * sales["price"]
    by_region = sales.groupby("region")["revenue"].agg(["sum", "count"]).sort_values("sum", ascending=False)
    return {
        "regions": [
            {"region": region, "revenue": round(float(row["sum"]), 2), "sales": int(row["count"])}
            for region, row in by_region.head(top).iterrows()
        ],
        "total": round(float(sales["revenue"].sum()), 2),
        "median_revenue": round(float(np.median(sales["revenue"])), 2),
        "best_product": str(sales.groupby("product")["revenue"].sum().idxmax()),
    }
