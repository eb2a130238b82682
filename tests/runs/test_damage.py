"""Whatever happens to the files of a checkpoint is named or survived, and nothing of it is loaded.

Each damage is done to a copy of a finished run. What was changed is known from the files
themselves: the newest checkpoint none of whose files have changed must be the one that is used, and
everything that is read must be what was read before.
"""

import collections
import copy
import itertools
import random
import shutil

import damage_helpers as damages
import pytest
from damage_helpers import KEPT, Readers, manifest_of, read

from jdqn import loops
from jdqn.config import ConfigError, load_config, with_overrides
from jdqn.runs import checkpoint, resume, slices

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module", autouse=True)
def short_slices():
    """Slices of eight transitions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_TRANSITIONS", 8)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run with several checkpoints, and another like it of another seed."""
    paths = [tmp_path_factory.mktemp("damage") / name for name in ("run", "other")]
    for seed, path in enumerate(paths):
        loops.train(damages.config(train__seed=seed), run_dir=path)
    return paths


@pytest.fixture(scope="module")
def readers(runs):
    """The two ways of reading, and what each reads of an undamaged checkpoint, by steps."""
    path, _ = runs
    made = Readers()
    good = {}
    work = path.with_name("older")
    for steps in reversed(KEPT):
        shutil.copytree(path, work)
        for newer in (s for s in KEPT if s > steps):
            manifest_of(work, newer).unlink()
        for name, reader in (("go on", made.go_on), ("play", made.play)):
            found, passed_over, everything = reader(work)
            assert (found, passed_over) == (steps, [])
            good[name, steps] = everything
        shutil.rmtree(work)
    return {"go on": made.go_on, "play": made.play}, good


def used_by(name, manifest):
    """Blobs that a reader reads."""
    parts = manifest["parts"]
    states = [part["blob"] for key, part in parts.items() if key.endswith("/state")]
    if name == "play":
        return states
    rows = itertools.chain.from_iterable(manifest["rows"])
    return [*(part["blob"] for part in parts.values()), *filter(None, rows)]


def intact(path, work, name):
    """Steps of the checkpoints all of whose files are as they were."""

    def same(file):
        now = work / file.relative_to(path)
        return now.is_file() and now.read_bytes() == file.read_bytes()

    return [
        steps
        for steps in KEPT
        if same(manifest_of(path, steps))
        and all(same(damages.blob_of(path, blob)) for blob in used_by(name, read(path, steps)))
    ]


def outcome(readers, path, work, name):
    """What a reader makes of a damaged run: `named` or `survived`, or fails.

    Or `gone`: a newest manifest that is missing is a checkpoint that was never finished.
    """
    everything, good = readers
    newest = max(intact(path, work, name), default=None)
    try:
        steps, passed_over, arrays = everything[name](work)
    except ConfigError as error:
        assert newest is None, f"{newest} is good: {error}"
        assert "\n" not in str(error)
        return "named"
    assert arrays == good[name, steps]
    assert newest is None or steps >= newest
    assert all("\n" not in sentence for sentence in passed_over)
    if steps == KEPT[-1]:
        assert not passed_over
        return "survived"
    if not manifest_of(work, KEPT[-1]).is_file() and not passed_over:
        return "gone"
    assert len(passed_over) == sum(kept > steps for kept in KEPT)
    return "named"


@pytest.fixture
def tried(runs, readers, tmp_path):
    """Tries damages, functions of a copy of the run, and counts the outcomes."""
    path, _ = runs
    counts = collections.Counter()

    def attempt(damage):
        work = tmp_path / "work"
        shutil.copytree(path, work)
        damage(work)
        for name in ("go on", "play"):
            counts[name, outcome(readers, path, work, name)] += 1
        shutil.rmtree(work)

    attempt.counts = counts
    return attempt


def on_file(path, damage, file, rng):
    """A damage of one file, in a copy."""
    return lambda work: damage(work / file.relative_to(path), rng)


QUICK = [damages.truncate, damages.flip, damages.remove]
MORE = [damages.extend, damages.zero, damages.empty, damages.make_folder, damages.dangle]


@pytest.mark.parametrize(
    "damage",
    [*QUICK, *(pytest.param(damage, marks=pytest.mark.slow) for damage in MORE)],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_is_named_or_survived(runs, tried, damage):
    path, _ = runs
    rng = random.Random(damage.__name__)
    files = damages.files_of(path)
    for file in files:
        tried(on_file(path, damage, file, rng))
    assert tried.counts["go on", "named"] > 0
    assert tried.counts["go on", "survived"] > 0  # older ones
    assert tried.counts["go on", "gone"] == (damage is damages.remove)
    assert tried.counts.total() == 2 * len(files) > 80


def test_swapped_files_are_named_or_survived(runs, tried):
    path, _ = runs
    manifests = [manifest_of(path, name) for name in [*KEPT, "best"]]
    pairs = list(itertools.combinations(manifests, 2))
    blobs = [file for file in damages.files_of(path) if file not in manifests]
    rng = random.Random(0)
    pairs += [rng.sample(blobs, 2) for _ in range(20)]
    for pair in pairs:
        tried(lambda work, pair=pair: damages.swap(*(work / f.relative_to(path) for f in pair)))
    assert tried.counts["go on", "named"] > 0


def test_a_checkpoint_of_another_run_is_named(runs, tried):
    _, other = runs
    for name in [*KEPT, "best"]:
        tried(lambda work, name=name: damages.replace_by(work, other, name))
    assert tried.counts["go on", "named"] == 1  # the newest; nobody asks for the others


def test_a_whole_run_s_checkpoints_of_another_run_are_named(runs, readers, tmp_path):
    path, other = runs
    work = tmp_path / "work"
    shutil.copytree(path, work)
    for name in KEPT:
        damages.replace_by(work, other, name)
    for reader in readers[0].values():
        with pytest.raises(ConfigError, match=r"has no checkpoint that can be used: .*another run"):
            reader(work)


def test_a_future_format_is_named(runs, tried):
    path, _ = runs
    for name in KEPT:
        future = {**read(path, name), "format": 2}
        tried(lambda work, name=name, future=future: damages.sign(work, name, future))
    assert tried.counts["go on", "named"] == 1


def test_leftovers_are_harmless(tried):
    rng = random.Random(0)
    for name in KEPT:
        tried(lambda work, name=name: damages.leave_over(work, name, rng))
    assert tried.counts == {("go on", "survived"): 4, ("play", "survived"): 4}


def test_blobs_that_unpack_to_more_than_said_are_named(runs, readers, tmp_path):
    path, _ = runs
    for part in [*read(path, KEPT[-1])["parts"], "rows"]:
        work = tmp_path / part.replace("/", "-")
        shutil.copytree(path, work)
        damages.bomb(work, KEPT[-1], part)
        for name, reader in readers[0].items():
            if name == "go on" or part == "0/state":
                with pytest.raises(ConfigError, match="does not hold"):
                    reader(work)


def test_folders_that_are_missing_or_files_are_named(runs, readers, tmp_path):
    path, _ = runs
    for number, name in enumerate(["checkpoints", "checkpoints/blobs"]):
        for as_file in (False, True):
            work = tmp_path / f"{number}{as_file}"
            shutil.copytree(path, work)
            shutil.rmtree(work / name)
            if as_file:
                (work / name).write_bytes(b"")
            for reader in readers[0].values():
                with pytest.raises(ConfigError, match="has no checkpoint"):
                    reader(work)


def test_a_flipped_bit_in_config_toml_is_named_or_changes_nothing_of_the_past(
    runs, readers, tmp_path
):
    path, _ = runs
    everything, _ = readers
    work = tmp_path / "work"
    shutil.copytree(path, work)
    file = work / "config.toml"
    whole = file.read_bytes()
    rng = random.Random(0)
    named = 0
    for _ in range(60):
        file.write_bytes(whole)
        damages.flip(file, rng)
        try:
            config = load_config(file=file)
            resumed = resume.prepare(work, with_overrides(config, train__steps=400))
            everything["play"](work)
        except ConfigError as error:
            assert "\n" not in str(error)
            named += 1
            continue
        before = resumed.found.manifest["config"]
        now = checkpoint.config_record(resumed.config)
        changed = {f"{s}.{f}" for s in now for f in now[s] if now[s][f] != before[s][f]}
        assert changed <= {"train.steps", "train.schedule_steps", *resume.CHANGEABLE}
    assert named > 30


# Not asked for in turn: a run may have none of them.
MAY_BE_MISSING = [("parts", name) for name in ("held_out", "learned", "environment", "0/timestep")]
# Text, and what the logs are cut back to.
NOT_READ = {"jax", "jdqn", "cores", "files", "config"}


@pytest.mark.parametrize("most", [40, pytest.param(10_000, marks=pytest.mark.slow)])
def test_whatever_a_manifest_with_the_right_hash_says_is_named_or_does_not_matter(
    runs, readers, tmp_path, most
):
    path, _ = runs
    everything, good = readers
    whole = read(path, KEPT[-1])
    rng = random.Random(0)
    work = tmp_path / "work"
    shutil.copytree(path, work)
    named = collections.Counter()
    places = [place for place in damages.places_in(whole) if place not in MAY_BE_MISSING]
    rng.shuffle(places)
    places.sort(key=len)  # what a manifest says itself comes first
    for place in places[:most]:
        for value in [..., *rng.sample(damages.STRANGE, 2)]:
            manifest = copy.deepcopy(whole)
            damages.put(manifest, place, value)
            damages.sign(work, KEPT[-1], manifest)
            for name, reader in everything.items():
                try:
                    steps, _, arrays = reader(work)
                except ConfigError as error:
                    assert "\n" not in str(error)
                    named[name] += 1
                    continue
                assert arrays == good[name, steps], (place, value)
                same = manifest == whole or place[0] in NOT_READ or name == "play"
                assert steps < KEPT[-1] or same, (place, value)
    assert named["go on"] > 20
