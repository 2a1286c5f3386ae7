"""The package against the program, and against formulas written here."""

import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import ptl
import pytest

TINY = "--arch resnet18-ptl --width 0.125 --height 32 --image-width 16 --ids 2 --images 2 --epochs 1 --eval-batch 4".split()


def program(*args, code=0):
    """Runs the program of the package."""
    line = [sys.executable, "-c", "import sys, ptl; sys.exit(ptl._main())", *map(str, args)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptl")
    program("synth", "--out", folder / "data", "--ids", 8, "--cams", 2)
    program("train", "--data", folder / "data", *TINY, "--out", folder / "run")
    return folder


@pytest.fixture(scope="session")
def images(trained):
    return sorted(map(str, (trained / "data" / "query").glob("*.jpg")))


def test_features_are_those_of_the_program(trained, images):
    out = trained / "features.npy"
    program("extract", "--checkpoint", trained / "run", "--images", trained / "data" / "query", "--out", out)
    paths = out.with_suffix(".txt").read_text().splitlines()
    model = ptl.Model.load(trained / "run")
    features = model.embed(paths)
    assert features.dtype == np.float32 and features.flags.writeable
    np.testing.assert_array_equal(features, np.load(out))
    # One image at a time, and in another order.
    single = np.concatenate([model.embed([pathlib.Path(path)]) for path in paths[::-1]])
    np.testing.assert_array_equal(single[::-1], features)
    assert model.embed([]).shape == (0, features.shape[1])


def test_arrays_are_images_too(trained, images):
    model = ptl.Model.load(str(trained / "run"), {"eval.flip": False})
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (40, 20, 3), np.uint8)
    # A file of the same pixels, as a binary PPM.
    file = trained / "array.ppm"
    file.write_bytes(b"P6 20 40 255\n" + array.tobytes())
    features = model.embed([array, file, images[0], array[:, ::2].copy(), array[:, ::2]])
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[3], features[4])
    assert np.abs(features[0] - features[2]).max() > 1e-4
    grey = array[..., 0]
    np.testing.assert_array_equal(*model.embed([grey, np.repeat(grey[..., None], 3, 2)]))
    for bad, part in [
        (array.astype(np.float32), "image 0 must be a path or uint8"),
        (array.transpose(2, 0, 1), "not uint8"),
        (array[:0], "image 0 must be"),
    ]:
        with pytest.raises(ValueError, match=part):
            model.embed([bad])
    for single in [images[0], pathlib.Path(images[0]), array]:
        with pytest.raises(TypeError, match="a list of paths or arrays"):
            model.embed(single)
    np.testing.assert_array_equal(model.embed(np.stack([array, array])), model.embed([array] * 2))
    np.testing.assert_array_equal(model.embed(np.array(images[:2])), model.embed([image.encode() for image in images[:2]]))
    with pytest.raises(ValueError):
        model.embed(["a\ud800.jpg"])


def test_a_model_says_what_it_is(trained):
    model = ptl.Model.load(trained / "run")
    assert model.settings["model"]["arch"] == "resnet18-ptl" and model.settings["eval"]["flip"] is True
    assert "resnet18-ptl, images of 32x16" in repr(model) and "CPU" in model.device
    for given in [{"eval.flip": False}, {"eval": {"flip": False}}, {"eval.flip": np.False_}]:
        assert ptl.Model.load(trained / "run", given).settings["eval"]["flip"] is False
    with pytest.raises(TypeError, match="ptl.Model.load"):
        ptl.Model("run")


def test_errors_are_exceptions_with_one_sentence(trained, images):
    with pytest.raises(ptl.Error, match="nowhere.*does not exist"):
        ptl.Model.load("nowhere")
    with pytest.raises(ptl.Error, match="eval.fip = false: there is no such setting"):
        ptl.Model.load(trained / "run", {"eval.fip": False})
    for setting, part in [({"optim.lr": 0.1}, "no effect on what"), ({"threads": 1}, "RAYON_NUM_THREADS"), ({"data.root": "x"}, "no effect")]:
        with pytest.raises(ptl.Error, match=part):
            ptl.Model.load(trained / "run", setting)
    model = ptl.Model.load(trained / "run")
    with pytest.raises(ptl.Error, match="none.jpg"):
        model.embed([images[0], "none.jpg"])
    with pytest.raises(ptl.Error, match="predicts no classes"):
        model.predict(images)


def brute_force(query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """mAP, mINP and CMC by their definitions, for distances without ties."""
    precisions, penalties, firsts = [], [], []
    for feature, identity, camera in zip(query, query_ids, query_cameras):
        keep = ~((gallery_ids == identity) & (gallery_cameras == camera))
        order = np.argsort(((gallery[keep].astype(np.float64) - feature) ** 2).sum(1), kind="stable")
        matches = np.flatnonzero(gallery_ids[keep][order] == identity) + 1
        if matches.size:
            precisions.append(np.mean(np.arange(1, matches.size + 1) / matches))
            penalties.append(matches.size / matches[-1])
            firsts.append(matches[0])
    cmc = [np.mean(np.array(firsts) <= k) for k in range(1, 11)]
    return np.mean(precisions), np.mean(penalties), cmc


@pytest.mark.parametrize("with_cameras", [True, False])
def test_rank_follows_its_definition(with_cameras):
    rng = np.random.default_rng(1)
    query, gallery = rng.normal(size=(20, 16)).astype(np.float32), rng.normal(size=(60, 16)).astype(np.float32)
    query_ids, gallery_ids = rng.integers(0, 6, 20), rng.integers(0, 6, 60)
    cameras = (rng.integers(0, 3, 20), rng.integers(0, 3, 60))
    report = ptl.rank(query, gallery, query_ids, gallery_ids, *(cameras if with_cameras else ()), max_rank=10)
    # Without cameras nothing is left out: no gallery image has a query's camera.
    used = cameras if with_cameras else (np.zeros(20), np.ones(60))
    mean_ap, minp, cmc = brute_force(query, gallery, query_ids, gallery_ids, *used)
    assert report["mAP"] == pytest.approx(mean_ap, abs=1e-12) and report["mINP"] == pytest.approx(minp, abs=1e-12)
    assert report["cmc"] == pytest.approx(cmc, abs=1e-12) and len(report["per_query"]) == 20


def test_wrong_shapes_are_refused():
    x = np.zeros((2, 4), np.float32)
    for bad in [np.zeros(4), np.zeros((2, 0)), np.zeros((2, 4), complex), [["a"] * 4] * 2]:
        with pytest.raises(ValueError, match="features must be numbers"):
            ptl.rank(bad, x, [0, 1], [0, 1])
    with pytest.raises(ValueError, match="the same dim, not 3 and 4"):
        ptl.rank(np.zeros((2, 3)), x, [0, 1], [0, 1])
    wide = np.ones((2, 4))
    for scale, part in [(1e-200, "too small"), (1e200, "too large")]:
        with pytest.raises(ValueError, match=part):
            ptl.rank(wide * scale, x, [0, 1], [0, 1])
    for ranks in [0, -1, 2**31]:
        with pytest.raises(ValueError, match="max_rank must be"):
            ptl.rank(x, x, [0, 1], [0, 1], max_rank=ranks)
    with pytest.raises(ptl.Error, match="row 1 of the gallery"):
        ptl.rerank(x, [[0, 0, 0, 0], [0, np.inf, 0, 0]])
    assert ptl.rerank(np.zeros((0, 4)), x).shape == (0, 2) and ptl.rerank(x, np.zeros((0, 4))).shape == (2, 0)
    with pytest.raises(ValueError, match="cameras of both"):
        ptl.rank(x, x, [0, 1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="whole numbers"):
        ptl.rank(x, x, [0.5, 1], [0, 1])
    with pytest.raises(ValueError, match="2 features, 3 identities"):
        ptl.rank(x, x, [0, 1, 2], [0, 1])
    with pytest.raises(ptl.Error, match="not|NaN|finite"):
        ptl.rank(np.full((2, 4), np.nan), x, [0, 1], [0, 1])


def test_junk_is_left_out():
    rng = np.random.default_rng(4)
    query, gallery = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(12, 6)).astype(np.float32)
    ids, all_ids = np.array([0, 1, 2, -1, 1]), np.array([-1] * 3 + [0, 1, 2] * 3)
    report = ptl.rank(query, gallery, ids, all_ids)
    clean = ptl.rank(query[ids >= 0], gallery[3:], ids[ids >= 0], all_ids[3:])
    assert report == clean and report["valid_queries"] == 4


def reference_rerank(query, gallery, k1, k2, lambda_value):
    """Zhong et al.'s published code, written plainly: distances are squared Euclidean ones, scaled by the largest of a column."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    n, q = len(features), len(query)
    distances = ((features[:, None] - features[None]) ** 2).sum(2)
    distances = (distances / distances.max(0)).T
    rank = np.argsort(distances, 1, kind="stable")

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        return forward[[i in rank[j, : k + 1] for j in forward]]

    weights = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        expanded = list(own)
        for j in own:
            other = reciprocal(j, int(np.around(k1 / 2)))
            if len(np.intersect1d(other, own)) > 2 / 3 * len(other):
                expanded.extend(other)
        expanded = np.unique(expanded)
        weights[i, expanded] = np.exp(-distances[i, expanded])
        weights[i] /= weights[i].sum()
    if k2 > 1:
        weights = np.stack([weights[rank[i, :k2]].mean(0) for i in range(n)])
    result = np.zeros((q, n - q))
    for i in range(q):
        for j in range(q, n):
            overlap = np.minimum(weights[i], weights[j]).sum()
            result[i, j - q] = (1 - overlap / (2 - overlap)) * (1 - lambda_value) + distances[i, j] * lambda_value
    return result


def test_rerank_is_the_published_one():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(5, 8))
    features = centres[rng.integers(0, 5, 40)] + 0.4 * rng.normal(size=(40, 8))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    query, gallery = features[:10], features[10:]
    for k1, k2, weight in [(6, 3, 0.3), (4, 1, 0.5)]:
        given = ptl.rerank(query, gallery, k1=k1, k2=k2, lambda_value=weight)
        np.testing.assert_allclose(given, reference_rerank(query, gallery, k1, k2, weight), atol=1e-4)
    with pytest.raises(ptl.Error, match="known are zhong"):
        ptl.rerank(query, gallery, variant="other")
    with pytest.raises(ptl.Error, match="k1"):
        ptl.rerank(query, gallery, k1=0)


def test_a_classifier_predicts(trained):
    people = sorted((trained / "data" / "bounding_box_train").glob("*.jpg"))
    for i, image in enumerate(people):
        target = trained / "classes" / f"class{i % 3}" / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.read_bytes())
    size = "--arch cifar-resnet20 --width 0.125 --height 32 --image-width 32 --batch 4 --epochs 1".split()
    program("train", "--task", "classify", "--data", trained / "classes", *size, "--out", trained / "classifier")
    model = ptl.Model.load(trained / "classifier")
    probabilities = model.predict(people)
    assert model.class_names == ["class0", "class1", "class2"]
    assert probabilities.shape == (len(people), 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_embedding_can_be_interrupted(trained, images):
    model = ptl.Model.load(trained / "run")

    def interrupt(*_):
        raise TimeoutError("enough")

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    # To the end, this would take many minutes.
    with pytest.raises(TimeoutError, match="enough"):
        model.embed(images[:1] * 500_000)
    assert model.embed(images[:1]).shape[0] == 1


def test_a_fork_after_a_computation_is_refused(trained, images):
    ptl.Model.load(trained / "run").embed(images[:1])
    child = os.fork()
    if child == 0:
        # Leaves without pytest's own end.
        try:
            ptl.Model.load(trained / "run").embed(images[:1])
            os._exit(1)
        except ptl.Error as error:
            os._exit(0 if "spawn" in str(error) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_other_threads_run_while_a_model_computes(trained, images):
    model = ptl.Model.load(trained / "run")
    worker = threading.Thread(target=model.embed, args=(images * 30,))
    worker.start()
    # These wait for nothing.
    assert "resnet18" in repr(model) and model.device and model.class_names
    assert worker.is_alive()
    worker.join()


def test_warnings_are_pythons(trained):
    """Weights of zeros give features of zeros."""
    model = trained / "run" / "checkpoints"
    source = sorted(model.iterdir())[-1] / "model.safetensors"
    bytes_ = source.read_bytes()
    length = int.from_bytes(bytes_[:8], "little")
    zeros = trained / "zeros.safetensors"
    zeros.write_bytes(bytes_[: 8 + length] + bytes(len(bytes_) - 8 - length))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ptl.Model.load(zeros).embed([np.zeros((32, 16, 3), np.uint8)])
    assert any("all zeros" in str(warning.message) for warning in caught), [str(w.message) for w in caught]


def test_the_program_is_installed(trained):
    [entry] = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "ptl-train"]
    assert entry.value == "ptl:_main" and importlib.metadata.version("ptl-reid") == ptl.__version__
    assert program("--version").stdout.startswith("ptl-train ")
    assert "error: " in program("evaluate", "--checkpoint", "nowhere", code=1).stderr
    program("no-command", code=2)
    assert json.loads((trained / "run" / "summary.json").read_text())["mAP"] >= 0
