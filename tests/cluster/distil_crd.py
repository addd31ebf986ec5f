"""Distil the schema of a KubeRay release into what the manifests of ``cluster/kuberay`` need of it.

    git clone --depth 1 --branch v1.7.0 https://github.com/ray-project/kuberay
    python tests/cluster/distil_crd.py kuberay/ray-operator/config/crd/bases \
        tests/cluster/kuberay-1.7.0.json

Kept are field names, types, required fields, allowed values and bounds; of fields that no manifest
uses, the name alone (``false``). Validating against the outcome is strict: a field that the release
does not know is an error, where the API server would drop it silently, and so is one that was not
used when this ran.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}
_KEPT = ("type", "required", "enum", "minimum", "maximum", "pattern", "minItems", "maxLength")


def manifests() -> list[tuple[Path, Any]]:
    """Return every document of the manifests with its file."""
    return [
        (path, document)
        for path in sorted((ROOT / "cluster" / "kuberay").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def distilled(schema: Schema, used: list[Any]) -> Schema | bool:
    """Return the part of a schema that the values in ``used`` touch, closed to unknown fields."""
    if not used:
        return False
    found: Schema = {name: schema[name] for name in _KEPT if name in schema}
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
    if "properties" in schema:
        found["additionalProperties"] = False
        found["properties"] = {
            name: distilled(field, [value[name] for value in used if name in value])
            for name, field in schema["properties"].items()
        }
    elif isinstance(schema.get("additionalProperties"), dict):
        values = [v for value in used for v in value.values()]
        found["additionalProperties"] = distilled(schema["additionalProperties"], values)
    if "items" in schema:
        found["items"] = distilled(schema["items"], [item for value in used for item in value])
    return found


def distil(folder: Path) -> dict[str, Schema | bool]:
    """Return one schema a kind, from a release's folder of definitions."""
    found: dict[str, Schema | bool] = {}
    for kind, plural in KINDS.items():
        definition = yaml.safe_load((folder / f"ray.io_{plural}.yaml").read_text())
        (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = _METADATA
        used = [document for _, document in manifests() if document["kind"] == kind]
        found[kind] = distilled(schema, used)
    return found


# The definitions leave it to Kubernetes.
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        "namespace": {"type": "string"},
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
    "additionalProperties": False,
}


if __name__ == "__main__":
    schemas = distil(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(schemas, separators=(",", ":"), sort_keys=True) + "\n")
