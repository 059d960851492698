"""hello: greets. The smallest function: no packages, one module. pagurus invoke hello '{"name": "Ada"}'"""


def main(param):
    name = (param or {}).get("name", "world")
    return {"greeting": f"Hello, {name}!", "length": len(name)}
