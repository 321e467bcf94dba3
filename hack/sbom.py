"""Bill of materials of an image's root folder: CycloneDX 1.5 JSON, read from what the package managers themselves recorded.

Debian packages come from dpkg's status file, Python packages from the metadata beside them, Go modules from the module file that a
binary was built from. Nothing is run in the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any


def bill(name: str, root: Path, go_module_file: Path | None = None) -> dict[str, Any]:
    """The document for the image `name` whose files lie under `root`; components in the order of their purl."""
    components = [*debian(root), *python(root), *(go(go_module_file) if go_module_file else ())]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "bom-ref": name}},
        "components": sorted(components, key=lambda component: str(component["purl"])),
    }


def component(name: str, version: str, purl: str, licence: str = "") -> dict[str, Any]:
    document: dict[str, Any] = {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}
    if licence:
        document["licenses"] = [{"license": {"name": licence}}]
    return document


def debian(root: Path) -> Iterator[dict[str, Any]]:
    status = root / "var/lib/dpkg/status"
    for paragraph in status.read_text(encoding="utf-8").split("\n\n") if status.exists() else ():
        fields = HeaderParser().parsestr(paragraph)
        if "installed" in (fields["Status"] or "").split():
            name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
            yield component(
                name, version, f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={machine}"
            )


def python(root: Path) -> Iterator[dict[str, Any]]:
    folders = [str(folder) for folder in root.glob("opt/continual/lib/python3*/site-packages")]
    for package in distributions(path=folders):
        name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
        licence = str(package.metadata.json.get("license_expression") or "")
        yield component(name, package.version, f"pkg:pypi/{name}@{package.version}", licence)


def go(module_file: Path) -> Iterator[dict[str, Any]]:
    for name, version in re.findall(r"^\s*(?:require )?(\S+\.\S+/\S+) (v\S+)", module_file.read_text(), re.MULTILINE):
        yield component(name, version, f"pkg:golang/{name}@{version}")
