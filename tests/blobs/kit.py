"""What tests of the blob store do again and again."""

from dataclasses import dataclass, field
from pathlib import Path

from seawall.blobs import DiskBlobStore, FileWriter, Location


@dataclass(slots=True)
class SystemCalls:
    """Records what is asked of the system, in order, as (call, path); `fails` makes one of them fail."""

    root: Path
    made: list[tuple[str, str]] = field(default_factory=list)
    fails: dict[str, OSError] = field(default_factory=dict)

    def count(self, name: str) -> int:
        """How often this was asked."""
        return sum(1 for made, _ in self.made if made == name)

    def note(self, name: str, target: object) -> None:
        """Record a call, and fail it if it is to fail."""
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(str(target))
        if path.is_relative_to(self.root):
            kind = path.relative_to(self.root)
            self.made.append((name, str(kind.parent if len(kind.parts) > 1 else kind)))
            if name in self.fails:
                raise self.fails[name]


async def stored(store: DiskBlobStore, data: bytes) -> str:
    """Put a blob into a file of its own."""
    async with store.new_file() as writer:
        await written(store, writer, data)
        return await writer.commit()


async def written(store: DiskBlobStore, writer: FileWriter, *data: bytes) -> None:
    """Write in a thread, as a door would."""
    await store.in_thread(writer.write, *data)


def files_under(root: Path) -> list[str]:
    """All files there are, relative to the root."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def path_of(store: DiskBlobStore, location: str) -> Path:
    """The file, or segment, that holds a blob."""
    place = Location.parse(location)
    if place.kind == "segment":
        return store.settings.root / "segments" / place.container
    return store.settings.root / "files" / place.container / place.entry


def open_under(root: Path) -> list[str]:
    """All files below the root that this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(fd.readlink()))
        except FileNotFoundError:
            continue
    return sorted(path for path in found if path.startswith(str(root)))
