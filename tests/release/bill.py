"""The build hook that writes the wheel's bill of materials (PEP 770), in CycloneDX's form.

hatchling runs this file by its path, in an environment that has hatchling only.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from hatchling.metadata.core import ProjectMetadata

NAME: Final = "deviceflow.cdx.json"


class BillHook(BuildHookInterface[Any]):
    """Gives hatchling the bill as one of the wheel's `sboms`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the bill outside of the tree, which a build leaves as it is."""
        self._folder = Path(tempfile.mkdtemp())
        file = self._folder / NAME
        file.write_text(json.dumps(bill_of(self.metadata), indent=2, sort_keys=True) + "\n")
        build_data["sbom_files"].append(str(file))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the bill: the wheel has it."""
        shutil.rmtree(self._folder)


def bill_of(metadata: ProjectMetadata[Any]) -> dict[str, Any]:
    """Return the project and what it requires without extras, as CycloneDX 1.7 has it.

    The bill has no time and no number of its own, so that two builds are the same bytes.
    """
    name, core = metadata.core.name, metadata.core
    project = {
        "bom-ref": f"pkg:pypi/{name}@{metadata.version}",
        "description": core.description,
        "licenses": [{"expression": core.license_expression}],
        "name": name,
        "purl": f"pkg:pypi/{name}@{metadata.version}",
        "type": "library",
        "version": metadata.version,
    }
    required = [_component(Requirement(one)) for one in core.dependencies]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "components": required,
        "dependencies": [
            {"ref": project["bom-ref"], "dependsOn": [one["bom-ref"] for one in required]},
            *({"ref": one["bom-ref"]} for one in required),
        ],
        "metadata": {"component": project, "lifecycles": [{"phase": "build"}]},
        "specVersion": "1.7",
        "version": 1,
    }


def _component(required: Requirement) -> dict[str, Any]:
    """Return a requirement, whose version is chosen where the wheel is installed."""
    purl = f"pkg:pypi/{required.name.lower()}"
    return {
        "bom-ref": purl,
        "isExternal": True,
        "name": required.name,
        "purl": purl,
        "scope": "required",
        "type": "library",
        "versionRange": f"vers:pypi/{str(required.specifier).replace(',', '|')}",
    }
