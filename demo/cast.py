"""Who acts in the demo, on what? Names, folders and the environment of each person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo.service import BIN, Service
from demo.show import Story

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".demo"
CACHE = HOME / "cache"
RUN = HOME / "run"
MODEL = "demo/file-type"
REF = f"{MODEL}:1.0.0"
MOUNT = "/weights/network"
BERTH, XUMI = BIN / "berth", BIN / "xumi"


@dataclass(frozen=True)
class People:
    """The environment of each: their token lets them do their part and no more."""

    admin: dict[str, str]
    engineer: dict[str, str]
    reviewer: dict[str, str]
    reader: dict[str, str]


@dataclass(frozen=True)
class Stage:
    """What every chapter needs."""

    story: Story
    service: Service
    people: People
    folder: Path

    @property
    def credentials(self) -> str:
        """The reader's, as stock clients want them."""
        return f"{self.people.reader['BERTH_USER']}:{self.people.reader['BERTH_TOKEN']}"

    def skopeo_copy(self, target: Path) -> list[str | Path]:
        """The command with which a stock client of the reader copies the version out."""
        source = f"docker://{self.service.address}/{REF}"
        return ["skopeo", "copy", "--src-tls-verify=false", "--src-creds", self.credentials, source, f"dir:{target}"]
