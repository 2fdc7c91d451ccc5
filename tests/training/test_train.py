# SPDX-License-Identifier: Apache-2.0
import contextlib
import functools
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from inkling.cli.main import main
from inkling.contract import TrainingData
from inkling_training.data.datasets import Dataset
from inkling_training.errors import TrainingDiverged
from inkling_training.fit.augment import augmented
from inkling_training.fit.models import MODELS, cnn
from inkling_training.fit.recipes import RECIPES, Augmentation, Recipe, recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train

Fit = Callable[..., Trained]

_EPOCHS = 3
_SPLITS = {"train": "", "validation": "val_"}
_RECIPES = {
    model: recipe_for("default", model, "digits", _EPOCHS) for model in ("mlp", "cnn")
}
_MLP, _CNN = _RECIPES["mlp"], _RECIPES["cnn"]
# Learns so quickly that it soon gets worse again.
_HASTY = replace(_MLP, epochs=40, learning_rate=0.02)


class _Interrupted(Run):
    """A run that is interrupted, as by Ctrl-C, before the epoch after `after` ends."""

    def __init__(self, run: Run, after: int) -> None:
        super().__init__(run.directory, run.identity)
        self._after = after

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        if len(self.history) == self._after:
            raise KeyboardInterrupt
        super().finish_epoch(model, figures)


def _fit(
    directory: Path,
    model: str = "mlp",
    recipe: Recipe = _MLP,
    *,
    dataset: Dataset,
    interrupt: int = 0,
    resume: bool = False,
    seed: int = 0,
) -> Trained:
    run = Run(directory, identity(MODELS[model], dataset, recipe, seed))
    if not interrupt:
        return train(MODELS[model], dataset, recipe, run, seed=seed, resume=resume)
    run = _Interrupted(run, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(MODELS[model], dataset, recipe, run, seed=seed, resume=resume)
    return Trained(keras.Model(), run.history, run.best_epoch, 0.0)


@pytest.fixture
def fit(tmp_path: Path, few_digits: Dataset) -> Fit:
    """Train under `tmp_path`: `fit("mlp", recipe, interrupt=epoch, resume=True)`."""
    return functools.partial(_fit, tmp_path / "run", dataset=few_digits)


@pytest.fixture(scope="module")
def fit_few(few_digits: Dataset) -> Fit:
    """Train anywhere: `fit_few(directory, "mlp", recipe, ...)`."""
    return functools.partial(_fit, dataset=few_digits)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that several tests read and none changes."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(runs: Path, fit_few: Fit) -> dict[str, Trained]:
    """Each model, trained without interruption with the seed 0."""
    return {
        model: fit_few(runs / model, model, recipe)
        for model, recipe in _RECIPES.items()
    }


@pytest.fixture(scope="module")
def interrupted(runs: Path, fit_few: Fit) -> dict[str, Path]:
    """The directory of each model's run, interrupted after its first epoch."""
    for model, recipe in _RECIPES.items():
        fit_few(runs / f"{model} interrupted", model, recipe, interrupt=1)
    return {model: runs / f"{model} interrupted" for model in _RECIPES}


@pytest.fixture(scope="module")
def resumed(
    runs: Path, interrupted: dict[str, Path], fit_few: Fit
) -> dict[str, Trained]:
    """Each model, resumed after that interruption."""
    found = {}
    for model, recipe in _RECIPES.items():
        copy = shutil.copytree(interrupted[model], runs / f"{model} resumed")
        found[model] = fit_few(copy, model, recipe, resume=True)
    return found


@dataclass(frozen=True)
class _Again:
    """A run where another had been, whose progress went to no terminal."""

    trained: Trained
    directory: Path
    lines: list[str]


@pytest.fixture(scope="module")
def again(runs: Path, interrupted: dict[str, Path], fit_few: Fit) -> _Again:
    """The MLP trained once more, over an interrupted run and without resuming it."""
    directory = Path(shutil.copytree(interrupted["mlp"], runs / "mlp again"))
    (directory / "tensorboard" / "stale").touch()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        trained = fit_few(directory)
    return _Again(trained, directory, said.getvalue().splitlines())


def _same(first: keras.Model, second: keras.Model) -> bool:
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def _command(folder: Path, *flags: str) -> list[str]:
    where = ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    return ["train", "mlp", "--dataset", "digits", *where, *flags]


@pytest.mark.soak
def test_same_seed_same_weights(again: _Again, whole: dict[str, Trained]) -> None:
    """Two runs with one seed agree in every bit, and in their histories.

    Of the CNN that is shown by resuming it.
    """
    assert _same(whole["mlp"].model, again.trained.model)
    assert whole["mlp"].history == again.trained.history


@pytest.mark.soak
def test_without_resume_a_run_starts_anew(again: _Again) -> None:
    """Without `resume` a run and its logs start from the beginning."""
    assert len(again.trained.history) == _EPOCHS
    assert not (again.directory / "tensorboard" / "stale").exists()


@pytest.mark.soak
def test_another_seed_other_weights(fit: Fit, whole: dict[str, Trained]) -> None:
    """The seed decides the first weights and the pictures of every batch."""
    other = fit(recipe=replace(_MLP, epochs=1), seed=1)

    first, second = whole["mlp"].model.get_weights(), other.model.get_weights()
    assert all(not np.array_equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("model", _RECIPES)
def test_resume_ends_with_the_same_weights(
    model: str, whole: dict[str, Trained], resumed: dict[str, Trained]
) -> None:
    """A run that was interrupted and resumed is the run without the interruption."""
    assert whole[model].history == resumed[model].history
    assert _same(whole[model].model, resumed[model].model)
    assert whole[model].best_epoch == resumed[model].best_epoch


def test_only_kernels_decay(fit: Fit, few_digits: Dataset) -> None:
    """Biases and normalisation are left alone by the weight decay."""
    # One step with all of its change in the decay.
    recipe = replace(_CNN, epochs=1, learning_rate=1e-9, weight_decay=1e8)
    one_step = replace(few_digits, train=few_digits.train.first(recipe.batch_size))

    after = fit("cnn", recipe, dataset=one_step).model

    keras.utils.set_random_seed(0)
    before = cnn(few_digits.contract.input_shape, 10, recipe.dropout)
    pairs = zip(before.trainable_weights, after.trainable_weights, strict=True)
    changed = {a.path: not np.allclose(a, b, atol=1e-6) for a, b in pairs}
    assert {path: path.endswith("kernel") for path in changed} == changed


@pytest.mark.parametrize(
    "left",
    ["half a state", pytest.param("half a new state", marks=pytest.mark.soak)],
)
def test_resume_after_a_kill_while_writing(
    left: str,
    fit: Fit,
    tmp_path: Path,
    interrupted: dict[str, Path],
    whole: dict[str, Trained],
) -> None:
    """A run that was killed while it wrote its state resumes to the same weights."""
    directory = Path(shutil.copytree(interrupted["mlp"], tmp_path / "run"))
    state = (directory / "state.npz").read_bytes()
    name = "state.npz" if left == "half a state" else "state.unfinished.npz"
    (directory / name).write_bytes(state[: len(state) // 2])

    found = fit(resume=True)

    assert len(whole["mlp"].history) == len(found.history)
    assert _same(whole["mlp"].model, found.model)


def test_resume_of_a_finished_run(
    fit: Fit, tmp_path: Path, runs: Path, whole: dict[str, Trained]
) -> None:
    """Resuming a finished run trains it no further."""
    shutil.copytree(runs / "mlp", tmp_path / "run")

    again = fit(resume=True)

    assert whole["mlp"].history == again.history
    assert _same(whole["mlp"].model, again.model)


_OTHER_VALUES = {
    "augmentation": {"digits": Augmentation(), "objects": Augmentation()},
    "loss": "squared_error",
    "optimizer": "sgd",
}
_OTHER_RECIPES = [
    replace(_MLP, **{name: _OTHER_VALUES.get(name) or getattr(_MLP, name) + 1})
    for name in (item.name for item in fields(Recipe))
]


@pytest.mark.parametrize("recipe", [*_OTHER_RECIPES, None], ids=lambda _: "")
def test_any_change_makes_another_run(
    recipe: Recipe | None,
    few_digits: Dataset,
    tmp_path: Path,
    interrupted: dict[str, Path],
) -> None:
    """A run is resumed only with the same recipe, seed, model and data."""
    directory = Path(shutil.copytree(interrupted["mlp"], tmp_path / "run"))
    if recipe:
        assert not Run(directory, identity(MODELS["mlp"], few_digits, recipe, 0)).start(
            resume=True
        )
        assert list(directory.iterdir()) == []
    else:
        assert Run(directory, identity(MODELS["mlp"], few_digits, _MLP, 0)).start(
            resume=True
        )
    data = TrainingData("digits", "sha256:other")
    other_data = replace(
        few_digits, contract=replace(few_digits.contract, training_data=data)
    )
    others = [("cnn", few_digits, 0), ("mlp", few_digits, 1), ("mlp", other_data, 0)]
    mine = identity(MODELS["mlp"], few_digits, _MLP, 0)
    assert mine not in [identity(MODELS[m], d, _MLP, seed) for m, d, seed in others]


@pytest.fixture(scope="module")
def stopped(runs: Path, fit_few: Fit) -> Trained:
    """A run that patience ended: the epoch after its best one was no better."""
    return fit_few(runs / "stopped", recipe=replace(_HASTY, patience=1))


def _ranks(trained: Trained) -> list[tuple[float, float]]:
    return [(epoch["val_accuracy"], -epoch["val_loss"]) for epoch in trained.history]


def test_weights_are_those_of_the_best_epoch(
    stopped: Trained, few_digits: Dataset
) -> None:
    """The model has the weights of the best epoch by validation, not of the last."""
    ranks = _ranks(stopped)
    best = stopped.history[stopped.best_epoch - 1]

    inputs = few_digits.validation.inputs(few_digits.contract)
    scores = stopped.model(inputs, training=False).numpy()

    accuracy = float((scores.argmax(axis=1) == few_digits.validation.labels).mean())
    assert stopped.best_epoch < len(ranks)
    assert max(ranks) == ranks[stopped.best_epoch - 1]
    assert best["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def _check_patience(trained: Trained, patience: int) -> None:
    best, waits = (-1.0, 0.0), []
    for rank in _ranks(trained):
        waits.append(0 if rank > best else waits[-1] + 1)
        best = max(best, rank)
    assert [wait for wait in waits if wait >= patience] == [patience]
    assert waits[-1] == patience
    assert len(waits) == trained.best_epoch + patience < _HASTY.epochs


def test_patience_counts_epochs_without_a_better_one(
    stopped: Trained, fit: Fit
) -> None:
    """A run ends `patience` epochs after the best one, no sooner and no later."""
    _check_patience(stopped, 1)
    _check_patience(fit(recipe=replace(_HASTY, patience=3)), 3)


def test_a_stopped_run_stays_stopped(
    stopped: Trained, runs: Path, fit: Fit, tmp_path: Path
) -> None:
    """Resuming a run that patience ended trains it no further."""
    shutil.copytree(runs / "stopped", tmp_path / "run")

    again = fit(recipe=replace(_HASTY, patience=1), resume=True)

    assert stopped.history == again.history


def test_a_run_that_learns_nothing_is_stopped(fit: Fit) -> None:
    """An epoch that equals the best so far does not reset patience."""
    trained = fit(recipe=replace(_MLP, epochs=8, patience=2, learning_rate=1e-30))

    assert len(trained.history) == 3
    assert trained.best_epoch == 1


def test_learning_rate_rises_then_falls(fit: Fit, tmp_path: Path) -> None:
    """The rate reaches its peak after a tenth of the steps and ends near zero."""
    recipe = replace(_MLP, epochs=10)
    fit(recipe=recipe)

    rates = _events(tmp_path / "run" / "tensorboard" / "train")["epoch_learning_rate"]

    # Each is the rate after an epoch: a tenth of the run, which is the warm-up.
    assert rates[0] == pytest.approx(recipe.learning_rate, rel=1e-3)
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    assert rates[9] <= 0.011 * recipe.learning_rate


def _events(directory: Path) -> dict[str, dict[int, float]]:
    """Read the scalars of epochs: their name -> epoch -> value."""
    scalars: dict[str, dict[int, float]] = {}
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag.startswith("epoch_"):
                    steps = scalars.setdefault(value.tag, {})
                    assert event.step not in steps, f"{value.tag} at {event.step} twice"
                    steps[event.step] = float(tf.make_ndarray(value.tensor))
    return scalars


@pytest.mark.parametrize("part", _SPLITS)
@pytest.mark.parametrize("which", ["mlp", "mlp resumed"])
def test_tensorboard_has_every_epoch_once(
    which: str,
    part: str,
    runs: Path,
    whole: dict[str, Trained],
    resumed: dict[str, Trained],
) -> None:
    """TensorBoard's logs hold the history, also of a run that was interrupted."""
    history = (whole if which == "mlp" else resumed)["mlp"].history

    events = _events(runs / which / "tensorboard" / part)

    for name in ("loss", "accuracy"):
        values = dict(enumerate(epoch[_SPLITS[part] + name] for epoch in history))
        assert events[f"epoch_{name}"] == pytest.approx(values, rel=1e-6)


@pytest.fixture(scope="module")
def diverged(runs: Path) -> tuple[int, str]:
    """Exit code and stderr of the command with a learning rate far too high."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(_command(runs / "diverged", "--learning-rate", "1e30"))
    return code, said.getvalue()


@pytest.mark.parametrize(
    "words", ["inkling: ", "loss became", "step 2", "1e+30", "--learning-rate"]
)
def test_divergence_is_explained(words: str, diverged: tuple[int, str]) -> None:
    """A loss that is no number ends the run at that step, with what to lower."""
    assert words in diverged[1]


def test_divergence_publishes_nothing(diverged: tuple[int, str], runs: Path) -> None:
    """The command ends with 1 and leaves an empty repository."""
    assert diverged[0] == 1
    assert list(runs.glob("diverged/models/*")) == []


def test_divergence_advises_a_rate_that_works(diverged: tuple[int, str]) -> None:
    """The advised learning rate works, however high the given one was."""
    advised = re.search(r"--learning-rate ([0-9.e+-]+[0-9])", diverged[1])

    assert advised
    assert float(advised.group(1)) <= 0.1


def test_divergence_in_the_last_step_is_noticed(fit: Fit, few_digits: Dataset) -> None:
    """A loss that becomes NaN in the last step is noticed, too."""
    recipe = replace(_MLP, epochs=1, learning_rate=1e30)
    one_step = replace(few_digits, train=few_digits.train.first(recipe.batch_size))

    with pytest.raises(TrainingDiverged):
        fit(recipe=recipe, dataset=one_step)


def test_fewer_pictures_than_a_batch(fit: Fit, few_digits: Dataset) -> None:
    """A dataset that does not fill a batch is trained on, or refused with a reason."""
    few = replace(few_digits, train=few_digits.train.first(100))

    trained = fit(recipe=replace(_MLP, epochs=1), dataset=few)

    assert len(trained.history) == 1


def test_progress_is_a_line_per_epoch(again: _Again) -> None:
    """Where no terminal is, each epoch is one plain line, however narrow."""
    trained, lines = again.trained, again.lines

    found = [
        re.fullmatch(
            rf"  epoch +(\d)/{_EPOCHS}  loss (\S+)  accuracy (\S+)%  "
            r"validation (\S+)%  \d+\.\d s",
            line,
        )
        for line in lines
    ]
    assert all(found), lines
    figures = [[float(text) for text in match.groups()] for match in found if match]
    expected = [
        [
            number,
            round(epoch["loss"], 4),
            round(100 * epoch["accuracy"], 2),
            round(100 * epoch["val_accuracy"], 2),
        ]
        for number, epoch in enumerate(trained.history, start=1)
    ]
    assert figures == pytest.approx(np.array(expected), abs=0.011)


@pytest.fixture(scope="module")
def stopped_by_hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int, Path]:
    """A process in a terminal that got Ctrl-C: its output, its code, its folder."""
    folder = tmp_path_factory.mktemp("terminal")
    command = _command(folder, "--epochs", "2000")
    return *_in_a_terminal(command, stop_at="epoch +2/"), folder


@pytest.mark.soak
def test_ctrl_c_in_a_terminal(stopped_by_hand: tuple[str, int, Path]) -> None:
    """Ctrl-C ends the command at once, without a traceback, publishing nothing."""
    text, code, folder = stopped_by_hand

    assert code == 130
    assert "Traceback" not in text
    assert not list(folder.glob("models/*"))


class _Pressing:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class _PressedInADestructor(Run):
    """A run after whose first epoch Ctrl-C comes where Python drops what it raises."""

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        super().finish_epoch(model, figures)
        if len(self.history) == 1:
            _Pressing()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_in_a_destructor(tmp_path: Path, few_digits: Dataset) -> None:
    """Ctrl-C ends a run, too, where it comes while a destructor runs."""
    run = _PressedInADestructor(
        tmp_path / "run", identity(MODELS["mlp"], few_digits, _MLP, 0)
    )

    with pytest.raises(KeyboardInterrupt):
        train(MODELS["mlp"], few_digits, _MLP, run, seed=0, resume=False)

    assert len(run.history) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.soak
def test_ctrl_c_gives_the_cursor_back(stopped_by_hand: tuple[str, int, Path]) -> None:
    """The terminal shows its cursor again, which the progress bar had hidden."""
    text, _, _ = stopped_by_hand

    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


@pytest.mark.soak
def test_same_seed_same_epoch_in_another_process(
    stopped_by_hand: tuple[str, int, Path], fit: Fit, digits: Dataset
) -> None:
    """Another process with the seed comes to the same figures, bit for bit."""
    _, _, folder = stopped_by_hand
    with np.load(folder / "runs" / "mlp-digits-0" / "state.npz") as arrays:
        state = str(arrays["described"])

    recipe = recipe_for("default", "mlp", "digits", 2000)
    here = fit(recipe=recipe, dataset=digits, interrupt=1)

    assert here.history == json.loads(state)["history"][:1]


def _in_a_terminal(arguments: list[str], stop_at: str) -> tuple[str, int]:
    """Run the command in a terminal; press Ctrl-C when it has written `stop_at`."""
    child, terminal = pty.fork()
    if child == 0:
        environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
        os.execve(
            sys.executable, [sys.executable, "-m", "inkling", *arguments], environ
        )
    text, pressed, give_up = "", False, time.monotonic() + 90
    while time.monotonic() < give_up:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if not pressed and re.search(stop_at, text):
            os.write(terminal, b"\x03")
            pressed = True
    if time.monotonic() >= give_up:
        os.kill(child, signal.SIGKILL)
    os.close(terminal)
    return text, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_ALL = Augmentation(
    rotation_deg=15,
    scale=0.2,
    aspect=0.1,
    shear=0.2,
    shift_px=3,
    stroke=0.8,
    blur=0.8,
    contrast=0.4,
    noise=0.2,
    flip=True,
)


def _pictures(shape: tuple[int, ...] = (28, 28, 1), count: int = 64) -> tf.Tensor:
    return tf.constant(np.random.default_rng(3).random((count, *shape), np.float32))


def _changed(
    inputs: tf.Tensor,
    ranges: Augmentation = _ALL,
    seed: tuple[int, int] = (5, 0),
    strength: float = 1.0,
) -> np.ndarray:
    found = augmented(inputs, tf.constant(seed), ranges, tf.constant(strength))
    return np.asarray(found)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (20, 30, 3)])
def test_augmentation_is_a_function_of_the_seed(shape: tuple[int, ...]) -> None:
    """One seed gives one batch, another gives another; pictures keep their shape."""
    inputs = _pictures(shape)

    first, second = _changed(inputs), _changed(inputs)

    assert inputs.shape == first.shape
    assert np.float32 == first.dtype
    assert np.array_equal(first, second)
    assert not np.array_equal(first, _changed(inputs, seed=(6, 0)))
    assert not np.array_equal(first, _changed(inputs, seed=(5, 1)))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (20, 30, 3)])
def test_augmentation_of_strength_0_is_the_identity(shape: tuple[int, ...]) -> None:
    """Without strength, and without ranges, pictures stay as they are."""
    inputs = _pictures(shape)

    weak = _changed(inputs, replace(_ALL, flip=False), strength=0.0)
    rangeless = _changed(inputs, Augmentation())

    assert np.abs(weak - inputs).max() <= 1e-6
    assert np.abs(rangeless - inputs).max() <= 1e-6


@pytest.mark.parametrize("inputs", [0.0, 0.5, 1.0])
def test_augmentation_stays_within_the_range_of_inputs(inputs: float) -> None:
    """No change leaves [0, 1], which is what a served picture can be."""
    found = _changed(tf.fill((64, 28, 28, 1), inputs))

    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert np.isfinite(found).all()


@pytest.mark.parametrize("flip", [False, True])
def test_pictures_are_mirrored_only_when_asked(flip: bool) -> None:
    """About half of the pictures are mirrored, exactly, or none is."""
    inputs = _pictures((32, 32, 3), 400)

    found = _changed(inputs, Augmentation(flip=flip))

    mirrored = np.abs(found - inputs[:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-5
    kept = np.abs(found - inputs).max(axis=(1, 2, 3)) < 1e-5
    assert np.all(mirrored ^ kept)
    assert 0.4 < mirrored.mean() < 0.6 if flip else not mirrored.any()


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        (Augmentation(shift_px=4), 4.01),
        (Augmentation(rotation_deg=90), 0.3),
        (Augmentation(scale=0.3), 0.3),
    ],
    ids=["shift", "rotation", "scale"],
)
def test_moves_are_about_the_centre(ranges: Augmentation, expected: float) -> None:
    """Turns and scaling leave a blot at the centre; shifts move it within their range."""
    inputs = np.zeros((256, 28, 28, 1), np.float32)
    inputs[:, 13:15, 13:15] = 1

    found = _changed(tf.constant(inputs), ranges)[..., 0]

    mass = found.sum(axis=(1, 2))
    rows = (found.sum(axis=2) * np.arange(28)).sum(axis=1) / mass - 13.5
    columns = (found.sum(axis=1) * np.arange(28)).sum(axis=1) / mass - 13.5
    assert np.abs(rows).max() <= expected
    assert np.abs(columns).max() <= expected


def test_digits_are_never_mirrored() -> None:
    """No recipe mirrors digits."""
    augmentations = [
        recipe.augmentation["digits"]
        for models in RECIPES.values()
        for recipe in models.values()
        if "digits" in recipe.augmentation
    ]

    assert augmentations
    assert not any(one.flip for one in augmentations)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dataset", ["mnist", "digits", "cifar10"])
def test_recipe_epochs_can_be_chosen(recipe: str, dataset: str) -> None:
    """Any number of epochs replaces the recipe's; without one, it stands."""
    for model in ("mlp", "cnn", "classic"):
        assert recipe_for(recipe, model, dataset, 7).epochs == 7
        assert recipe_for(recipe, model, dataset, None).epochs >= 3
