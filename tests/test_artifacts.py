import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapt_ray.artifacts import MANIFEST, ArtifactStore, Manifest, Stage
from adapt_ray.errors import InputError


@dataclass(frozen=True)
class Text:
    text: str

    def save(self, folder: Path) -> None:
        (folder / "text.txt").write_text(self.text)
        (folder / "part").mkdir()
        (folder / "part" / "more.txt").write_text(self.text * 2)

    @classmethod
    def load(cls, folder: Path) -> "Text":
        return cls((folder / "text.txt").read_text())


STAGE = Stage("texts", 1, {"size": 3}, {"source": "abc"})


@pytest.fixture(params=["folder", "uri"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    root = str(tmp_path) if request.param == "folder" else tmp_path.as_uri()
    return ArtifactStore(root)


def file_of(store: ArtifactStore, manifest: Manifest) -> Path:
    return Path(store.path(manifest)) / "text.txt"


def test_what_was_published_is_found_and_loaded(store: ArtifactStore) -> None:
    assert store.find(STAGE) is None
    published = store.publish(STAGE, Text("one"), {"note": [1, 2]})
    found = store.find(STAGE)
    assert found == published
    assert found is not None
    assert found.notes == {"note": [1, 2]}
    assert store.load(Text, found) == Text("one")
    store.verify(found)


@pytest.mark.parametrize(
    "other",
    [
        Stage("other", 1, {"size": 3}, {"source": "abc"}),
        Stage("texts", 2, {"size": 3}, {"source": "abc"}),
        Stage("texts", 1, {"size": 4}, {"source": "abc"}),
        Stage("texts", 1, {"size": 3}, {"source": "abd"}),
    ],
)
def test_everything_that_identifies_a_stage_is_in_its_key(other: Stage) -> None:
    assert other.key != STAGE.key


def test_keys_are_stable_across_versions_and_machines() -> None:
    content = b'["texts",1,{"size":3},{"source":"abc"}]'
    assert STAGE.key == hashlib.sha256(content).hexdigest()[:20]


def test_the_digest_is_of_the_content_alone(store: ArtifactStore) -> None:
    elsewhere = Stage("texts", 7, {}, {})
    first = store.publish(STAGE, Text("same"), {})
    second = store.publish(elsewhere, Text("same"), {"other": "notes"})
    third = store.publish(Stage("texts", 8, {}, {}), Text("different"), {})
    assert first.digest == second.digest != third.digest


def test_a_changed_byte_is_an_error_that_names_the_file(store: ArtifactStore) -> None:
    manifest = store.publish(STAGE, Text("original"), {})
    file_of(store, manifest).write_text("originaL")
    with pytest.raises(InputError, match=r"text\.txt changed after it was written"):
        store.load(Text, manifest)
    with pytest.raises(InputError, match=r"text\.txt changed after it was written"):
        store.verify(manifest)


def test_a_missing_file_is_an_error_that_names_it(store: ArtifactStore) -> None:
    manifest = store.publish(STAGE, Text("original"), {})
    file_of(store, manifest).unlink()
    with pytest.raises(InputError, match=r"text\.txt is missing; delete .* computed again"):
        store.verify(manifest)


def test_a_damaged_manifest_is_an_error(store: ArtifactStore, tmp_path: Path) -> None:
    store.publish(STAGE, Text("x"), {})
    path = tmp_path / "artifacts" / "texts" / STAGE.key / MANIFEST
    path.write_text(path.read_text()[:20])
    with pytest.raises(InputError, match="damaged"):
        store.find(STAGE)


def test_files_without_a_manifest_are_no_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    """What a killed writer leaves behind does not count, and does not disturb the next writer."""
    leftover = tmp_path / "artifacts" / "texts" / STAGE.key / "attempt-dead"
    leftover.mkdir(parents=True)
    (leftover / "text.txt").write_text("half")
    assert store.find(STAGE) is None
    manifest = store.publish(STAGE, Text("whole"), {})
    assert store.load(Text, manifest) == Text("whole")


def test_racing_writers_leave_one_artifact(tmp_path: Path) -> None:
    def write(number: int) -> Manifest:
        return ArtifactStore(str(tmp_path)).publish(STAGE, Text("same"), {"writer": number})

    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(write, range(8)))
    store = ArtifactStore(str(tmp_path))
    final = store.find(STAGE)
    assert final in manifests
    assert final is not None
    for manifest in manifests:
        assert manifest.digest == final.digest
    assert store.load(Text, final) == Text("same")


@pytest.mark.parametrize("name", ["../escape.txt", "/etc/passwd", "a/../../b"])
def test_names_that_leave_the_folder_are_refused(store: ArtifactStore, name: str) -> None:
    manifest = store.publish(STAGE, Text("x"), {})
    forged = Manifest(**{**vars(manifest), "files": {name: "0" * 64}})
    with pytest.raises(InputError, match="leaves the artifact's folder"):
        store.load(Text, forged)
    forged = Manifest(**{**vars(manifest), "attempt": name})
    with pytest.raises(InputError, match="leaves the artifact's folder"):
        store.load(Text, forged)


@pytest.mark.parametrize("root", ["nosuchscheme://bucket/x", "s3:/broken://"])
def test_an_unknown_storage_scheme_is_an_error(root: str) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        ArtifactStore(root)


def test_finished_artifacts_of_a_stage_are_listed(store: ArtifactStore) -> None:
    assert store.manifests("texts") == []
    published = [
        store.publish(Stage("texts", 1, {"size": size}, {}), Text("a"), {}) for size in (1, 2, 3)
    ]
    store.publish(Stage("other", 1, {}, {}), Text("b"), {})
    store.begin(Stage("texts", 1, {"size": 4}, {}))  # not sealed
    assert store.manifests("texts") == published
    with pytest.raises(InputError, match="leaves the artifact's folder"):
        store.manifests("../texts")
