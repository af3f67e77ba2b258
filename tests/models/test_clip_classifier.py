"""The clip classifier: gradients, padding, streams, files, training, bad input. Tiny sizes."""

import numpy as np
import pytest

import wavedil as wd
from wavedil import audio
from wavedil.errors import CheckpointError, ConfigError, DataError, DTypeError, ShapeError

TRUNK = wd.WaveNetConfig(dilations=(1, 2, 4), residual_channels=5, dilation_channels=6, skip_channels=7, end_channels=4,
                         classes=256)  # fmt: skip
LABELS = ("no", "yes", "maybe")
KINDS = ("average", "statistics", "attentive")
LENGTHS = np.array([40, 17, 1, 33])
TARGETS = np.array(["yes", "no", "maybe", "yes"])


def codes(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (4, 40)).astype(np.uint8)


def classifier(pooling="attentive", dtype="float32", **options):
    model = wd.ClipClassifier(TRUNK, LABELS, pooling=pooling, attention_channels=9, dtype=dtype, **options)
    rng = np.random.default_rng(1)
    for name, value in model.params.items():  # nothing starts at zero
        if name.endswith(("bias", "score")):
            value[...] = 0.3 * rng.standard_normal(value.shape)
    model.params["head.weight"][...] *= 10
    for value in model.buffers.values():
        value[...] = rng.uniform(0.5, 2, value.shape)
    return model


# ---- gradients -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pooling", KINDS)
def test_gradients_of_the_whole_classifier(pooling):
    """Each parameter along a random direction against a central difference of fourth order, in float64."""
    model = classifier(pooling, "float64")
    loss, grads = model.loss_and_grads(codes(), TARGETS, LENGTHS)
    assert loss == pytest.approx(model.loss(codes(), TARGETS, LENGTHS), rel=1e-12)
    assert list(grads) == list(model.params) and not grads["blocks.2.residual.weight"].any()
    rng, h = np.random.default_rng(2), 1e-4
    for name, value in model.params.items():
        direction, kept = rng.standard_normal(value.shape), value.copy()

        def moved(distance, value=value, direction=direction, kept=kept):
            value[...] = kept + distance * direction
            return model.loss(codes(), TARGETS, LENGTHS)

        slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
        value[...] = kept
        norm = np.linalg.norm(grads[name])
        assert abs(slope - np.sum(grads[name] * direction)) <= 1e-6 * max(norm, 1e-3), name


def test_a_wrong_gradient_would_be_seen(monkeypatch):
    """Without the ReLU's backward the check above goes red."""
    from wavedil.ops import gated_stack

    right = gated_stack.backward
    monkeypatch.setattr(gated_stack, "backward", lambda dskips, *args, **kw: right(np.abs(dskips), *args, **kw))
    with pytest.raises(AssertionError, match="input.embedding"):
        test_gradients_of_the_whole_classifier("average")


def test_needs_skips_what_is_frozen_and_changes_nothing_else():
    model = classifier()
    _, full = model.loss_and_grads(codes(), TARGETS, LENGTHS)
    for needs in (["head.bias"], ["pooling.score", "head.weight"], ["blocks.2.conv.weight"], [], list(model.params)):
        loss, some = model.loss_and_grads(codes(), TARGETS, LENGTHS, needs=needs)
        assert set(some) == set(needs)
        for name in needs:
            assert np.array_equal(some[name], full[name]), name
        into = model.params.like()
        into.flat[:] = 1
        again, same = model.loss_and_grads(codes(), TARGETS, LENGTHS, into, needs=needs)
        assert same is into and again == loss
        for name, value in into.items():
            if name in needs:
                np.testing.assert_allclose(value, 1 + full[name], rtol=1e-6)
            else:
                assert (value == 1).all(), name


def test_the_same_bits_for_any_threads_and_with_recompute():
    results = [classifier(threads=n, recompute=r).loss_and_grads(codes(), TARGETS, LENGTHS) for n, r in
               ((1, False), (2, False), (1, True))]  # fmt: skip
    for loss, grads in results[1:]:
        assert loss == results[0][0] and grads.flat.tobytes() == results[0][1].flat.tobytes()


# ---- clips of different lengths, and streams -------------------------------------------------------------------------
@pytest.mark.parametrize("pooling", KINDS)
def test_a_padded_clip_gives_what_it_gives_alone(pooling):
    model = classifier(pooling)
    proba = model.predict_proba(codes(), LENGTHS)
    other = codes()
    for row, n in zip(other, LENGTHS, strict=True):
        row[n:] = 7
    assert np.array_equal(model.predict_proba(other, LENGTHS), proba)
    alone = [model.predict_proba(codes()[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS)]
    np.testing.assert_allclose(proba, alone, rtol=2e-5)
    np.testing.assert_allclose(model.predict_proba([codes()[i, :n] for i, n in enumerate(LENGTHS)]), alone, rtol=2e-5)
    loss, grads = model.loss_and_grads(codes(), TARGETS, LENGTHS)
    parts = [model.loss_and_grads(codes()[i : i + 1, :n], TARGETS[i : i + 1]) for i, n in enumerate(LENGTHS)]
    assert loss == pytest.approx(np.mean([part[0] for part in parts]), rel=1e-5)
    mean = np.mean([part[1].flat for part in parts], axis=0)
    np.testing.assert_allclose(grads.flat, mean, atol=2e-5 * np.abs(mean).max())
    picked = np.array([LABELS.index(t) for t in TARGETS])
    assert loss == pytest.approx(-np.log(proba[np.arange(4), picked]).mean(), rel=1e-5)


@pytest.mark.parametrize("pooling", KINDS)
def test_a_stream_decides_at_its_end_as_the_whole_clip(pooling):
    model = classifier(pooling, "float64")
    for sizes in ([40], [1] * 40, [3, 20, 17]):
        state, end = model.init_stream(4), 0
        for n in sizes:
            proba = model.stream(codes()[:, end : end + n], state)
            end += n
            np.testing.assert_allclose(proba, model.predict_proba(codes()[:, :end]), rtol=1e-10)
        assert state.time == 40
    # It can be copied and reset, and keeps the parameters that it began with.
    state = model.init_stream()
    model.stream(codes()[:1, :10], state)
    other = state.copy()
    expected = model.predict_proba(codes()[:1])
    model.params["head.weight"][...] = 0
    model.params["blocks.0.conv.weight"][...] = 0
    for one in (state, other):
        np.testing.assert_allclose(model.stream(codes()[:1, 10:], one), expected, rtol=1e-10)
    state.reset()
    np.testing.assert_allclose(model.stream(codes()[:1], state), expected, rtol=1e-10)
    # Streams of one batch may end at different times.
    lengths = np.minimum(LENGTHS, 30)
    model, state = classifier(pooling, "float64"), classifier(pooling, "float64").init_stream(4)
    for begin in range(0, 40, 8):
        weights = (np.arange(begin, begin + 8) < lengths[:, None]).astype(float)
        proba = model.stream(codes()[:, begin : begin + 8], state, weights)
    np.testing.assert_allclose(proba, model.predict_proba(codes(), lengths), rtol=1e-10)


def test_a_refused_block_leaves_the_stream_as_it_was():
    model, spoiled = classifier("statistics"), classifier("statistics")
    states = model.init_stream(4), spoiled.init_stream(4)
    with pytest.raises(ShapeError, match=r"sample_weight must be \(4, 40\), got \(4, 39\)"):
        spoiled.stream(codes(), states[1], np.ones((4, 39)))
    assert states[1].time == 0
    np.testing.assert_array_equal(model.stream(codes(), states[0]), spoiled.stream(codes(), states[1]))


def test_long_clips_run_in_pieces(monkeypatch):
    from wavedil.models import clip_classifier

    model = classifier(dtype="float64")
    whole = model.predict_proba(codes(), LENGTHS), model.loss(codes(), TARGETS, LENGTHS)
    monkeypatch.setattr(clip_classifier, "_ROWS", 28)
    pieces = model.predict_proba(codes(), LENGTHS), model.loss(codes(), TARGETS, LENGTHS)
    np.testing.assert_allclose(pieces[0], whole[0], rtol=1e-10)
    assert pieces[1] == pytest.approx(whole[1], rel=1e-10)


def test_predictions_and_evaluation():
    model = classifier()
    proba = model.predict_proba(codes(), LENGTHS)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    predicted = model.predict(codes(), LENGTHS)
    assert predicted.tolist() == [LABELS[i] for i in proba.argmax(axis=1)]
    truth = ["yes", "yes", "no", "maybe"]
    clips = [(f"{i}.wav", codes()[i, :n], truth[i]) for i, n in enumerate(LENGTHS)]
    result = model.evaluate(clips)
    assert result.accuracy == np.mean(predicted == truth) and result.predicted.tolist() == predicted.tolist()
    assert result.loss == pytest.approx(model.loss(codes(), truth, LENGTHS), rel=1e-5)
    assert result.confusion.sum() == 4 and result.confusion.sum(axis=1).tolist() == [1, 2, 1]
    assert np.trace(result.confusion) == np.sum(predicted == truth)


# ---- the trunk -------------------------------------------------------------------------------------------------------
def test_the_trunk_is_that_of_the_model():
    trunk = wd.WaveNet(TRUNK, seed=5)
    model = wd.ClipClassifier(trunk, LABELS)
    assert not np.shares_memory(model.params.flat, trunk.params.flat)
    assert all(np.array_equal(model.params[name], trunk.params[name]) for name in model.trunk_names)
    features = np.maximum(trunk.features(codes()), 0).astype(float)
    pooled = np.concatenate([features.mean(axis=1), np.sqrt(features.var(axis=1) + 1e-5)], axis=1)
    scores = pooled @ model.params["head.weight"] + model.params["head.bias"]
    np.testing.assert_allclose(np.log(model.predict_proba(codes())), scores - np.log(np.exp(scores).sum(1))[:, None],
                               rtol=1e-4)  # fmt: skip
    assert model.loss(codes(), TARGETS) == pytest.approx(np.log(3), abs=0.3), "an untrained head knows nothing"


def test_of_a_trunk_with_speakers_the_mean_speaker_is_taken():
    import dataclasses

    trunk = wd.WaveNet(dataclasses.replace(TRUNK, speakers=3), seed=5, dtype="float64")
    trunk.params["speaker.embedding"][...] = trunk.params["speaker.embedding"].mean(axis=0)
    model = wd.ClipClassifier(trunk, LABELS, pooling="average")
    assert model.dtype == np.float64 and model.config.trunk.speakers == model.config.trunk.condition_channels == 0
    features = np.maximum(trunk.features(codes(), speaker=np.zeros(4, int)), 0).mean(axis=1)
    proba = np.exp(features @ model.params["head.weight"])
    np.testing.assert_allclose(model.predict_proba(codes()), proba / proba.sum(1, keepdims=True), rtol=1e-10)
    with pytest.raises(ConfigError, match="trunk must have no condition, got condition_channels=4"):
        wd.ClipClassifier(dataclasses.replace(TRUNK, condition_channels=4), LABELS)


def test_calibration_gives_pooled_numbers_mean_0_and_deviation_1():
    clips = [(f"{i}.wav", codes()[i % 4, : 5 + 3 * i], "yes") for i in range(8)]
    model = wd.ClipClassifier(TRUNK, LABELS, dtype="float64")
    assert model.calibrate(clips) is model
    pooled = []
    for _, clip, _ in clips:
        features = np.maximum(wd.WaveNet(TRUNK, dtype="float64").features(clip[None])[0], 0)
        pooled.append(np.concatenate([features.mean(axis=0), np.sqrt(features.var(axis=0) + 1e-5)]))
    normal = (np.array(pooled) - model.buffers["pooled.center"]) * model.buffers["pooled.scale"]
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(normal.std(axis=0), 1, rtol=1e-9)
    with pytest.raises(DataError, match="calibrate: clips must hold at least one, got none"):
        model.calibrate([])


# ---- files, training -------------------------------------------------------------------------------------------------
def test_saved_and_loaded(tmp_path):
    model = classifier()
    path = tmp_path / "model.safetensors"
    model.save(path, step=3)
    for loaded in (wd.ClipClassifier.load(path), wd.load(path, threads=1)):
        assert loaded.config == model.config and all(np.array_equal(loaded.buffers[n], b) for n, b in
                                                     model.buffers.items())  # fmt: skip
        assert loaded.params.flat.tobytes() == model.params.flat.tobytes()
        assert np.array_equal(loaded.predict_proba(codes()), model.predict_proba(codes()))
    assert wd.models.build("ClipClassifier", model.config.to_dict(), threads=1).config == model.config
    with pytest.raises(CheckpointError, match="must hold a WaveNet, got a ClipClassifier"):
        wd.WaveNet.load(path)


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Loud and soft ones."""
    path, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for label, level in (("loud", 0.5), ("soft", 0.03)):
        (path / label).mkdir()
        for i in range(6):
            x = np.sin(2 * np.pi * rng.uniform(300, 900) / 8000 * np.arange(200 + 20 * i) + i)
            audio.write_audio(path / label / f"{i}.wav", level * x, 8000)
    return path


def test_it_learns_and_a_resume_is_bitwise(tones, tmp_path):
    data = audio.LabelledClips(tones, validation=0.3, augment=[audio.augment.Gain(), audio.augment.TimeShift()])

    def trainer(seed=0):
        model = wd.ClipClassifier(TRUNK, data.labels, seed=seed)
        return wd.Trainer(model, data, optimizer=wd.Adam(2e-2), batch=4, window=256, validation=data, validate_every=10)

    whole, seen = trainer(), []
    whole.fit(steps=40, on_step=lambda p: seen.append(p.validation))
    assert whole.model.evaluate(data.validation_clips()).accuracy == 1
    assert [bits is not None for bits in seen] == [step % 10 == 9 for step in range(40)]
    evaluated = whole.model.evaluate(data.validation_clips())
    assert whole.validate() == pytest.approx(evaluated.loss / np.log(2), rel=1e-4)

    half = trainer()
    half.fit(steps=20)
    half.save(tmp_path)
    again = wd.Trainer.resume(tmp_path, data)
    again.fit(steps=20)
    assert again.model.params.flat.tobytes() == whole.model.params.flat.tobytes()


def test_a_frozen_trunk_stays_as_it_is(tones):
    data = audio.LabelledClips(tones, validation=0)
    model = wd.ClipClassifier(wd.WaveNet(TRUNK), data.labels)
    before = model.params.copy()
    wd.Trainer(model, data, batch=4, window=256, finetune=wd.FineTune(freeze=["input.*", "blocks.*"])).fit(steps=3)
    for name, value in model.params.items():
        assert np.array_equal(value, before[name]) == (name in model.trunk_names), name


def test_another_sample_rate_is_an_error(tones):
    data = audio.LabelledClips(tones, 4000, resample=True, validation=0)
    with pytest.raises(ConfigError, match="the model is for 8000 Hz, the data has 4000 Hz"):
        wd.Trainer(wd.ClipClassifier(TRUNK, data.labels), data)


# ---- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "message", "args"),
    [
        (DataError, "loss: labels must be the model's, such as 'maybe', got 'mayb'", (codes(), ["yes", "mayb"] * 2)),
        (ShapeError, r"loss: labels must be \(4,\), got \(1,\)", (codes(), ["yes"])),
        (ShapeError, r"loss: labels must lie in \[0, 3\), got 3", (codes(), np.array([0, 1, 2, 3]))),
        (DTypeError, "loss: labels must be texts or integers, got float64", (codes(), np.zeros(4))),
        (ShapeError, r"loss: codes must be \(B, T\), got \(40,\)", (codes()[0], TARGETS)),
        (DTypeError, "loss: codes must be an array of integers, got float64", (codes() / 1.0, TARGETS)),
        (ShapeError, r"loss: codes must lie in \[0, 256\), got -1", (codes() * 0 - np.int64(1), TARGETS)),
        (ShapeError, r"loss: lengths must lie in \[1, 40\], got \[1, 2, 3, 41\]", (codes(), TARGETS, [1, 2, 3, 41])),
        (ShapeError, r"loss: lengths must lie in \[1, 40\], got \[0,", (codes(), TARGETS, [0, 1, 2, 3])),
    ],
)  # fmt: skip
def test_bad_clips(error, message, args):
    with pytest.raises(error, match="ClipClassifier." + message):
        classifier().loss(*args)


def test_bad_configs_needs_and_states():
    for message, make in [
        ("labels must be given", lambda: wd.ClipClassifier(TRUNK)),
        ("labels must be at least 2 different texts, got .'a', 'a'", lambda: wd.ClipClassifier(TRUNK, ["a", "a"])),
        ("labels must be at least 2 different texts, got 'ab'", lambda: wd.ClipClassifier(TRUNK, "ab")),
        ("pooling must be one of 'average'.*got 'max'", lambda: wd.ClipClassifier(TRUNK, LABELS, pooling="max")),
        ("trunk must be a WaveNet or a config, got int", lambda: wd.ClipClassifier(3, LABELS)),
        ("attention_channels must be at least 1", lambda: wd.ClipClassifier(TRUNK, LABELS, attention_channels=0)),
        ("pooling must be left out", lambda: wd.ClipClassifier(classifier().config, pooling="average")),
        ("ClipClassifierConfig: labels must be given", lambda: wd.ClipClassifierConfig.from_dict({"trunk": {}})),
        ("unknown key 'poling'; did you mean 'pooling'", lambda: wd.ClipClassifierConfig(TRUNK, LABELS, poling="max")),
        ("needs must name parameters, such as .*, got 'no'", lambda: classifier().loss_and_grads(codes(), TARGETS,
                                                                                               needs=["no"])),
        ("into must have an array for", lambda: classifier().loss_and_grads(codes(), TARGETS, into={})),
        ("state must come from init_stream of this model", lambda: classifier().stream(
            codes(), classifier("average").init_stream(4))),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            make()
    with pytest.raises(DataError, match="evaluate: clips must hold at least one, got none"):
        classifier().evaluate([])
    with pytest.raises(ShapeError, match="predict_proba: codes must be an array"):
        classifier().predict_proba([])
