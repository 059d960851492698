"""The three functions that start-up is measured with, and their archives."""

import io
import tarfile

SOURCES = {
    "empty": 'def main(param):\n    return {"ok": param}\n',
    "requests": 'import requests\n\n\ndef main(param):\n    return {"ok": param, "version": requests.__version__}\n',
    "pandas": (
        "import numpy\nimport pandas\n\n\ndef main(param):\n"
        '    return {"ok": param, "versions": [numpy.__version__, pandas.__version__]}\n'
    ),
}
REQUIREMENTS = {"empty": "", "requests": "requests\n", "pandas": "numpy\npandas\n"}
PARAM = b'{"a":1}'


def archive(name: str) -> bytes:
    """The function as a tar file with main.py and requirements.txt."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in (("main.py", SOURCES[name]), ("requirements.txt", REQUIREMENTS[name])):
            member = tarfile.TarInfo(path)
            member.size = len(text)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()
