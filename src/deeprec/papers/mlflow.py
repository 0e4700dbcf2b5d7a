"""MLmodel: a bundle as a folder of MLflow, whose python_function is `serve.py` and holds no pickle.

After MLflow's documentation of its format; deeprec does not run MLflow.
"""

import json
from collections.abc import Mapping

REQUIREMENTS = "requirements-serve.txt"


def mlmodel(created: str, versions: Mapping[str, str]) -> str:
    """The text of MLmodel, which is YAML."""
    columns = [
        {"name": "item_ids", "type": "array", "items": {"type": "string"}, "required": True},
    ]
    return f"""\
flavors:
  python_function:
    loader_module: serve
    code: .
    python_version: {versions["python"]}
signature:
  inputs: {json.dumps(json.dumps(columns))}
utc_time_created: {json.dumps(created)}
"""


def requirements(versions: Mapping[str, str]) -> str:
    """What `serve.py` needs; the build of torch ("+cpu") is for whoever installs it to choose."""
    return "".join(f"{name}=={versions[name].partition('+')[0]}\n" for name in ("torch", "pyarrow"))
