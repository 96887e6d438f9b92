"""Laws of the metrics on features: the numbers of torch-fidelity, brute force where it has none, no download ever."""

import contextlib
import hashlib
import io
import pickle
import sys
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from progan.errors import UserError
from progan.metrics import features
from progan.metrics.features import (
    Extractor,
    Features,
    Settings,
    check_wanted,
    density_coverage,
    extract,
    feature_metrics,
    open_extractor,
    protocol,
)
from progan.metrics.frechet import frechet_distance

SMALL = Settings(kid_subsets=7, kid_subset_size=20, is_splits=3)
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


def _pixels(count: int, seed: int = 0, channels: int = 3, resolution: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, resolution, resolution), generator=generator)
    return (pixels // (1 + seed % 3)).to(torch.uint8)  # sets of different seeds look different


class Tiny(nn.Module):
    """12 features of a picture's 4x4 colours."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("weight", torch.randn(48, 12, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x.to(torch.float32) / 127.5 - 1, 4)
        return torch.cos(x.flatten(1) @ self.weight)


class Reshaped(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :12, None].to(torch.float32)


class Fewer(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:1].to(torch.float32)


class Whole(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Several(Tiny):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1).to(torch.float32), x


class Endless(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / (x.flatten(1).to(torch.float32) * 0)


class Floats(Tiny):
    """Takes images, not pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :48] @ self.weight


class Training(Tiny):
    """Was saved while it was trained, when it drops features at random."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x.flatten(1).to(torch.float32), 0.5, self.training)


def _script(path: Path, network: type[Tiny] = Tiny) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(network()).save(str(path))
    return path


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _script(tmp_path_factory.mktemp("features") / "tiny.pt")


def _features(values: Tensor, scores: Tensor | None = None, kind: str = "torchscript") -> Features:
    return Features(values.float(), scores, kind, "tiny", "00", "3x8x8")


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- TorchScript networks ---


def test_a_torchscript_network_gives_its_features(script, device):
    extractor = open_extractor(None, script, device)
    got = extract(extractor, [_pixels(50)])
    assert torch.allclose(got.values, Tiny()(_pixels(50)), rtol=0, atol=1e-5)
    assert (got.values.dtype, got.values.device.type, got.scores) == (torch.float32, "cpu", None)
    assert (extractor.kind, extractor.name) == ("torchscript", "tiny.pt")
    assert extractor.hash == hashlib.blake2b(script.read_bytes(), digest_size=16).hexdigest() == got.hash


@pytest.mark.parametrize("sizes", [[1] * 75, [7, 32, 36], [64, 11], [32, 32, 11], [0, 75, 0]])
def test_batches_do_not_change_a_bit(script, device, sizes):
    extractor, pixels = open_extractor(None, script, device), _pixels(75)
    whole = extract(extractor, [pixels]).values
    assert torch.equal(extract(extractor, pixels.split(sizes)).values, whole)
    assert whole.shape == (75, 12)


def test_the_same_pictures_have_the_same_features_however_often(script, device):
    """TorchScript compiles a network for its third run, if it is let."""
    extractor = open_extractor(None, script, device)
    first, *more = [extract(extractor, [_pixels(40)]).values for _ in range(5)]
    assert all(torch.equal(again, first) for again in more)


def test_the_network_sees_groups_of_one_size(script):
    sizes = []

    def run(pixels: Tensor) -> tuple[Tensor, None]:
        sizes.append(len(pixels))
        return pixels.flatten(1).float(), None

    extract(Extractor("torchscript", "x", "00", "", None, torch.device("cpu"), run), _pixels(75).split([3, 70, 2]))
    assert sizes == [32, 32, 11]


def test_a_network_is_not_in_training(tmp_path):
    extractor = open_extractor(None, _script(tmp_path / "training.pt", Training), "cpu")
    assert torch.equal(extract(extractor, [_pixels(5)]).values, _pixels(5).flatten(1).float())


def test_grey_pictures_are_grey_in_three_channels(script):
    extractor, grey = open_extractor(None, script, "cpu"), _pixels(5, channels=1)
    got = extract(extractor, [grey])
    assert torch.equal(got.values, extract(extractor, [grey.repeat(1, 3, 1, 1)]).values)
    assert got.picture == "1x8x8"


def test_a_network_runs_in_full_precision_and_leaves_the_precision_as_it_was():
    seen = []

    def run(pixels: Tensor) -> tuple[Tensor, None]:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled()))
        return pixels.flatten(1).float(), None

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        extract(Extractor("torchscript", "x", "00", "", None, torch.device("cpu"), run), [_pixels(2)])
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
    assert seen == [("highest", False, False)]


def test_metrics_are_taken_in_full_precision(monkeypatch):
    seen = []
    monkeypatch.setattr(features, "frechet_distance", lambda *_: seen.append(torch.backends.cudnn.allow_tf32) or 1.0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    feature_metrics(_features(_normal(9, 2)), _features(_normal(9, 2)), ["fd"], 0)
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False], True)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Reshaped, r"returns \[5, 12, 1\] for 5 pictures; it has to take uint8 pixels"),
        (Fewer, r"returns \[1, 192\] for 5 pictures"),
        (Whole, "returns torch.uint8"),
        (Several, "returns a tuple for 5 pictures"),
        (Endless, "not finite"),
        (Floats, r"fails on pixels \[5, 3, 8, 8\] \(RuntimeError: .*\); it has to take uint8"),
    ],
)
def test_a_network_of_another_form_is_refused(tmp_path, network, message):
    extractor = open_extractor(None, _script(tmp_path / "other.pt", network), "cpu")
    with pytest.raises(UserError, match=message):
        extract(extractor, [_pixels(5)])


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "junk.pt").write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match="cannot be read as TorchScript"):
        open_extractor(None, tmp_path / "junk.pt", "cpu")
    for path in (tmp_path, tmp_path / "none.pt"):
        with pytest.raises(UserError, match="is not a file"):
            open_extractor(None, path, "cpu")


def test_two_networks_at_once_are_refused(tmp_path):
    with pytest.raises(UserError, match="give one of them"):
        open_extractor(tmp_path / "a", tmp_path / "b", "cpu")


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "there are no pictures"),
        ([_pixels(0)], "there are no pictures"),
        ([_pixels(2).float()], r"torch.float32 \[2, 3, 8, 8\]"),
        ([_pixels(2, channels=2)], r"\[2, 2, 8, 8\]"),
        ([_pixels(2)[0]], r"\[3, 8, 8\]"),
        ([_pixels(2), _pixels(2, resolution=16)], r"\[3, 16, 16\] follow pictures \[3, 8, 8\]"),
        ([_pixels(2), _pixels(2, channels=1)], r"\[1, 8, 8\] follow pictures \[3, 8, 8\]"),
    ],
)
def test_sets_that_are_none_are_refused(script, pictures, message):
    with pytest.raises(ValueError, match=message):
        extract(open_extractor(None, script, "cpu"), pictures)


@pytest.mark.parametrize("scores", [None, _normal(5, 4)])
def test_features_come_back_from_a_file_to_the_bit(tmp_path, scores):
    kept = Features(_normal(5, 3), scores, "inception", "ä name", "0f", "1x8x8")
    kept.save(tmp_path / "features")
    got = Features.load(tmp_path / "features")
    assert torch.equal(got.values, kept.values)
    assert (got.scores is None) if scores is None else torch.equal(got.scores, scores)
    assert (got.kind, got.extractor, got.hash, got.picture) == ("inception", "ä name", "0f", "1x8x8")


def test_a_file_that_holds_no_features_is_refused(tmp_path):
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    features.safetensors.torch.save_file({"values": _normal(2, 2)}, tmp_path / "bare")
    features.safetensors.torch.save_file({"other": _normal(2, 2)}, tmp_path / "other", metadata={"kind": "inception"})
    for name in ("junk", "bare", "other"):
        with pytest.raises(ValueError, match="does not hold features"):
            Features.load(tmp_path / name)


# --- metrics ---


def test_fd_is_the_frechet_distance_of_the_sets(script):
    extractor = open_extractor(None, script, "cpu")
    reals, fakes = extract(extractor, [_pixels(60, 1)]), extract(extractor, [_pixels(40, 2)])
    a, b = reals.values.double().numpy(), fakes.values.double().numpy()
    moments = [torch.from_numpy(m) for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    got = feature_metrics(reals, fakes, ["fd"], 0)
    assert got == {"fd": pytest.approx(frechet_distance(*moments), rel=1e-10)}
    assert got["fd"] > 1
    assert feature_metrics(reals, reals, ["fd"], 0)["fd"] < 1e-9


def _brute_density_coverage(reals: Tensor, fakes: Tensor, k: int) -> tuple[float, float]:
    reals, fakes = reals.double(), fakes.double()
    inside = covered = 0
    for i, real in enumerate(reals):
        others = torch.cat([reals[:i], reals[i + 1 :]])
        radius = (others - real).norm(dim=1).sort().values[k - 1]
        count = int(((fakes - real).norm(dim=1) < radius).sum())
        inside, covered = inside + count, covered + (count > 0)
    return inside / (k * len(fakes)), covered / len(reals)


@pytest.mark.parametrize(("reals", "fakes", "k"), [(70, 50, 5), (30, 90, 1), (6, 5, 5)])
def test_density_and_coverage_are_those_of_brute_force(monkeypatch, device, reals, fakes, k):
    monkeypatch.setattr(features, "BLOCK", 32)
    x, y = _normal(reals, 4, seed=1) + 3, 0.7 * _normal(fakes, 4, seed=2) + 3
    density, coverage = density_coverage(x.to(device), y.to(device), k)
    assert (density, coverage) == pytest.approx(_brute_density_coverage(x, y, k), rel=1e-12)
    assert density > 0
    assert 0 < coverage <= 1


def test_a_set_against_itself_has_density_and_coverage_one_and_a_far_one_zero():
    x = _normal(100, 6)
    assert density_coverage(x, x, 5) == (1, 1)
    assert density_coverage(x, x + 100, 5) == (0, 0)


def test_density_and_coverage_keep_their_digits_far_from_zero():
    x, y = _normal(80, 30, seed=1).mul(64).round() / 64, _normal(80, 30, seed=2).mul(64).round() / 64
    assert density_coverage(x + 4096, y + 4096, 5) == density_coverage(x, y, 5)
    assert density_coverage(x, y, 5)[0] > 0.3


def test_fakes_that_are_a_few_reals_are_precise_and_cover_little():
    pytest.importorskip("torch_fidelity", reason="precision and recall are torch-fidelity's")
    reals = _normal(200, 3)
    few = reals[:10].repeat(5, 1) + 1e-3 * _normal(50, 3, seed=1)
    got = feature_metrics(_features(reals), _features(few), ["prdc"], 0)
    assert set(got) == {"precision", "recall", "density", "coverage"}
    assert got["precision"] > 0.9
    assert got["recall"] < 0.1
    assert (got["density"], got["coverage"]) == pytest.approx(_brute_density_coverage(reals, few, 5), rel=1e-12)
    assert got["coverage"] < 0.4 < 0.5 < got["density"]


def test_names_choose_the_metrics():
    pytest.importorskip("torch_fidelity", reason="kd is torch-fidelity's")
    reals, fakes = _features(_normal(60, 4)), _features(_normal(60, 4, seed=1) + 1)
    got = feature_metrics(reals, fakes, ["fd", "kd", "prdc"], 0, SMALL)
    assert list(got) == ["fd", "kd", "kd_std", "precision", "recall", "density", "coverage"]
    assert {type(value) for value in got.values()} == {float}
    for name in ("fd", "kd", "prdc"):
        assert feature_metrics(reals, fakes, [name], 0, SMALL).items() <= got.items()


def test_the_seed_chooses_subsets_and_nothing_else_does():
    pytest.importorskip("torch_fidelity", reason="kd is torch-fidelity's")
    reals, fakes = _features(_normal(60, 4)), _features(_normal(60, 4, seed=1) + 1)
    a, again = (feature_metrics(reals, fakes, ["kd"], 2**40 + 3, SMALL) for _ in range(2))
    other = feature_metrics(reals, fakes, ["kd"], 4, SMALL)
    assert a == again != other
    assert a["kd"] == pytest.approx(other["kd"], rel=0.3)


@pytest.mark.parametrize(
    ("kind", "name", "reals", "fakes", "message"),
    [
        ("inception", "fid", 3000, 2047, "fid needs at least as many pictures as features, 2048, .* are 2047 fakes"),
        ("inception", "fid", 2047, 3000, "full rank, and there are 2047 reals; raise --images or leave fid out"),
        ("inception", "kid", 999, 1000, "kid draws subsets of 1000 pictures, and there are 999 reals"),
        ("inception", "kid", 1000, 999, "there are 999 fakes"),
        ("torchscript", "kd", 999, 1000, "kd draws subsets of 1000 pictures"),
        ("inception", "is", 10, 9, "is is a mean over 10 splits, and there are 9 fakes"),
        ("inception", "prdc", 5, 6, "prdc looks at the 5 nearest neighbours of a picture, and there are 5 reals"),
        ("torchscript", "fid", 9999, 9999, "fid is no metric of a network of kind torchscript, which has fd, kd, prdc"),
        ("torchscript", "is", 9999, 9999, "which has fd, kd, prdc"),
        ("inception", "fd", 9999, 9999, "which has fid, kid, is, prdc"),
    ],
)
def test_too_few_pictures_and_unknown_names_are_refused(kind, name, reals, fakes, message):
    with pytest.raises(ValueError, match=message):
        check_wanted(kind, [name], reals, fakes, 2048)


def test_enough_pictures_are_enough():
    check_wanted("inception", ["fid"], 2048, 2048, 2048)
    check_wanted("inception", ["kid"], 1000, 1000, 2048)
    check_wanted("inception", ["is"], 0, 10, 2048)
    check_wanted("inception", ["prdc"], 6, 6, 2048)
    check_wanted("torchscript", ["fd"], 2, 2, None)


def test_a_metric_itself_refuses_too_few_pictures():
    with pytest.raises(ValueError, match=r"fd needs .* features, 12, .* are 11 fakes"):
        feature_metrics(_features(_normal(12, 12)), _features(_normal(11, 12)), ["fd"], 0)


def test_sets_that_do_not_compare_are_refused():
    a = Features(_normal(9, 2), None, "torchscript", "a", "00", "3x8x8")
    for other in (
        Features(_normal(9, 2), None, "torchscript", "a", "01", "3x8x8"),
        Features(_normal(9, 2), None, "torchscript", "a", "00", "3x16x16"),
        Features(_normal(9, 2), None, "torchscript", "a", "00", "1x8x8"),
        Features(_normal(9, 2), None, "inception", "a", "00", "3x8x8"),
    ):
        with pytest.raises(ValueError, match="do not compare"):
            feature_metrics(a, other, ["fd"], 0)
    assert feature_metrics(a, a, ["fd"], 0)["fd"] < 1e-12


def test_the_protocol_tells_what_a_number_depends_on(script):
    extractor = open_extractor(None, script, "cpu")
    ground = {"extractor": "tiny.pt", "extractor_hash": extractor.hash, "resize": "the network's own"}
    assert protocol(extractor, ["fd"]) == ground
    assert protocol(extractor, ["kd"]) == ground | {"kid_subsets": 100, "kid_subset_size": 1000}
    assert protocol(extractor, ["is", "prdc"], SMALL) == ground | {
        "is_splits": 3,
        "pr_neighbours": 3,
        "dc_neighbours": 5,
    }


# --- torch-fidelity ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one, of random weights with which features tell pictures apart."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")

    class Blank(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object) -> None:
            """Nothing to load."""

    with io.BytesIO() as nothing, torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save({}, nothing)
        nothing.seek(0)
        network = Blank("inception-v3-compat", ["2048"], nothing)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


class _Set(torch.utils.data.Dataset):
    """What torch-fidelity takes for a set of pictures."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


def _library(reals: Tensor, fakes: Tensor, settings: Settings, **more: object) -> dict[str, float]:
    """torch-fidelity's own numbers of two sets of pixels."""
    from torch_fidelity import calculate_metrics

    return calculate_metrics(
        input1=_Set(fakes),
        input2=_Set(reals),
        isc=True,
        kid=True,
        prc=True,
        isc_splits=settings.is_splits,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.kid_subset_size,
        prc_neighborhood=settings.pr_neighbours,
        rng_seed=11,
        batch_size=32,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **more,
    )


def _assert_equal(got: dict[str, float], wanted: dict[str, float]) -> None:
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
    }
    both = {name: key for name, key in names.items() if name in got}
    assert {name: got[name] for name in both} == {
        name: pytest.approx(wanted[key], rel=1e-6) for name, key in both.items()
    }
    assert {"kid", "is", "precision"} <= set(both)


def test_the_numbers_are_those_of_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")

    class Standin(fidelity.FeatureExtractorBase):
        def __init__(self, name: str, wanted: list[str], **_: object) -> None:
            super().__init__(name, wanted)
            self.tiny = Tiny()

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(
                {"2048": self.tiny(x), "logits_unbiased": 2 * self.tiny(x)}[name] for name in self.features_list
            )

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "2048", "logits_unbiased"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "2048"

    with contextlib.suppress(ValueError):  # once a process
        fidelity.register_feature_extractor("standin", Standin)
    reals, fakes = _pixels(60, 0), _pixels(45, 1)
    run = Standin("standin", ["2048", "logits_unbiased"])
    extractor = Extractor("inception", "standin", "00", "none", 12, torch.device("cpu"), run)
    got = feature_metrics(
        extract(extractor, [reals]), extract(extractor, [fakes]), ["fid", "kid", "is", "prdc"], 11, SMALL
    )
    _assert_equal(got, _library(reals, fakes, SMALL, fid=True, feature_extractor="standin"))
    assert 0.05 < got["recall"] < got["precision"] < 1, "else they could be exchanged"
    assert got["fid"] > 1


def test_inception_gives_torch_fidelitys_features(weights):
    """The whole way, with the architecture itself, from a file of weights to the numbers."""
    settings = Settings(kid_subsets=5, kid_subset_size=5, is_splits=2, pr_neighbours=2, dc_neighbours=2)
    reals, fakes = _pixels(7, 1), _pixels(6, 2)
    torch.manual_seed(5)
    extractor = open_extractor(weights, None, "cpu")
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))  # none was drawn
    seen = [extract(extractor, [pixels]) for pixels in (reals, fakes)]
    assert (seen[1].values.shape, seen[1].scores.shape) == ((6, 2048), (6, 1008))
    assert seen[1].values.std(0).mean() > 1e-3  # else nothing is told apart
    got = feature_metrics(*seen, ["kid", "is", "prdc"], 11, settings)
    more = {"feature_extractor": "inception-v3-compat", "feature_extractor_weights_path": str(weights)}
    _assert_equal(got, _library(reals, fakes, settings, **more))


def test_inception_says_what_it_is(weights, monkeypatch):
    extractor = open_extractor(weights, None, "cpu")
    assert (extractor.kind, extractor.dimension, extractor.resize) == ("inception", 2048, "tf1-bilinear 299")
    assert extractor.name == "inception-v3 of other weights"
    assert extractor.hash == hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()
    monkeypatch.setattr(features, "WEIGHTS_SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    assert open_extractor(weights, None, "cpu").name == "inception-v3-2015-12-05"


def test_the_published_weights_are_those_that_torch_fidelity_names():
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="needs torch-fidelity")
    assert module.URL_INCEPTION_V3 == features.WEIGHTS_URL
    assert features.WEIGHTS_URL.endswith(f"-{features.WEIGHTS_SHA256[:8]}.pth")
    assert len(features.WEIGHTS_SHA256) == 64


def test_scores_are_kept_where_they_are_wanted():
    extractor = Extractor(
        "inception", "x", "00", "", 12, torch.device("cpu"), lambda pixels: (pixels.flatten(1).float(),) * 2
    )
    with_scores, without = (extract(extractor, _pixels(40).split(9), scores) for scores in (True, False))
    assert torch.equal(with_scores.scores, _pixels(40).flatten(1).float())
    assert without.scores is None
    with pytest.raises(ValueError, match="needs the scores of classes"):
        feature_metrics(with_scores, without, ["is"], 0)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would download fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with contextlib.suppress(ImportError):
        monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", refuse)


def test_missing_weights_are_named_and_never_downloaded(tmp_path, monkeypatch, offline):
    pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    cached = tmp_path / "home" / "hub" / "checkpoints" / WEIGHTS
    for path in (None, tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError) as caught:
            open_extractor(path, None, "cpu")
        message = str(caught.value)
        assert f"weights are not at {path or cached}, and progan downloads nothing" in message
        assert f"fetch {features.WEIGHTS_URL} and give the file by --inception FILE, or put it at {cached}." in message
    assert list(tmp_path.iterdir()) == []


def test_weights_in_torchs_cache_are_found(tmp_path, monkeypatch, weights, offline):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / WEIGHTS).hardlink_to(weights)
    assert open_extractor(None, None, "cpu").hash == open_extractor(weights, None, "cpu").hash


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    for name in ("feature_extractor_inceptionv3", "metric_kid", "metric_prc", "metric_isc"):
        monkeypatch.setitem(sys.modules, f"torch_fidelity.{name}", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    a, b = _features(_normal(60, 4)), _features(_normal(60, 4, seed=1))
    with pytest.raises(UserError, match=r"pip install 'progan\[metrics\]'"):
        open_extractor(tmp_path, None, "cpu")
    for name in ("kd", "prdc"):
        with pytest.raises(UserError, match=r"torch-fidelity, which is not installed: pip install 'progan\[metrics\]'"):
            feature_metrics(a, b, [name], 0, SMALL)
    assert feature_metrics(a, b, ["fd"], 0)["fd"] > 0


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_files_that_hold_no_weights_are_refused_and_their_code_does_not_run(tmp_path, script):
    pytest.importorskip("torch_fidelity", reason="needs torch-fidelity")
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    (tmp_path / "empty").write_bytes(b"")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    (tmp_path / "script").write_bytes(script.read_bytes())
    torch.save({"weight": _Trap(tmp_path / "sprung")}, tmp_path / "trap")
    (tmp_path / "pickle").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError, match=f"{path} does not hold the Inception network's weights"):
            open_extractor(path, None, "cpu")
    assert not (tmp_path / "sprung").exists()
