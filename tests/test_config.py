"""Laws of the configuration: it survives its own file, a diff names what differs, and whatever is wrong is named."""

import dataclasses
import re
import tomllib

import pytest

from progan import config as config_module
from progan.config import (
    Config,
    binding_diff,
    couples_images,
    diff,
    discriminator_arguments,
    doubts,
    dump,
    flatten,
    generator_arguments,
    grows,
    load,
    nearest,
    parse,
    preset_folder,
    preset_names,
    schedule_of,
)
from progan.errors import UserError
from progan.schedule import Schedule

OVERRIDES = [
    "data.mirror=false",
    "data.labels=b,a",
    "data.balance=true",
    "growth.max_res=64",
    "growth.batch.64=6",
    "training.lr=0.01",
    "networks.d_pool=after",
]

# --- there and back ---


@pytest.mark.parametrize(
    "config", [Config(), load(None, OVERRIDES), load("quickstart")], ids=["default", "set", "preset"]
)
def test_what_is_dumped_is_parsed_again(config):
    assert parse(dump(config)) == config
    assert dump(parse(dump(config))) == dump(config)


def test_a_dump_holds_every_knob_by_its_section():
    tables = tomllib.loads(dump(Config()))
    assert {f"{s}.{k}" for s, table in tables.items() for k in table} == set(flatten(Config()))
    assert set(tables) == {"data", "growth", "networks", "loss", "training", "logging", "metrics"}


def test_the_defaults_are_the_official_schedule_and_networks():
    schedule, default = schedule_of(Config()), Schedule()
    assert schedule == default
    assert generator_arguments(Config()) == {
        "max_res": 1024, "channels": 3, "latent_size": 512, "fmap_base": 8192, "fmap_max": 512, "fmap_decay": 1.0,
        "leaky_slope": 0.2, "family": "progressive", "weights": "equalized", "norm": "pixel", "activation": "lrelu",
        "output": "linear", "latent_norm": True, "init": "he", "spectral_gain": 1.0, "spectral_learned": False,
        "attention": 0, "attention_form": "B", "layout": "dcgan",
    }  # fmt: skip
    assert discriminator_arguments(Config()) == {
        "max_res": 1024, "channels": 3, "fmap_base": 8192, "fmap_max": 512, "fmap_decay": 1.0,
        "mbstd_group": 4, "minibatch_discrimination": 0, "d_pool": "before", "leaky_slope": 0.2,
        "family": "progressive", "weights": "equalized", "norm": "none", "activation": "lrelu",
        "init": "he", "spectral_gain": 1.0, "spectral_learned": False, "attention": 0, "attention_form": "B",
        "layout": "dcgan", "global_pool": "sum", "d_wide": False,
    }  # fmt: skip
    loss = Config().loss
    assert (loss.wgan_lambda, loss.wgan_target, loss.wgan_epsilon, loss.gp_norm) == (10, 1, 0.001, "full")
    assert (Config().training.ema_beta, Config().training.d_repeats) == (0.999, 1)


def test_the_schedule_takes_its_knobs_from_three_sections():
    schedule = schedule_of(load(None, ["growth.max_res=8", "growth.batch=6", "training.lr=0.5", "logging.tick_kimg=7"]))
    point = schedule.at(600_001)
    assert (schedule.max_res, point.batch, point.lr_G, point.lr_D, point.tick_kimg) == (8, 6, 0.5, 0.5, 7)


# --- presets and files ---


def test_the_default_preset_is_the_defaults():
    assert load("default") == Config() == load()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_is_a_small_diff_with_a_header(name):
    text = (preset_folder() / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(diff(Config(), load(name))) <= 30
    stated = {f"{s}.{k}": v for s, table in tomllib.loads(text).items() for k, v in table.items()}
    assert set(diff(Config(), load(name))) == set(stated)  # nothing is said that is the default anyway


def test_there_are_presets():
    assert {"default", "quickstart", "paper-celebahq", "paper-cifar10"} <= set(preset_names())


def test_the_papers_celebahq_preset():
    config = load("paper-celebahq")
    schedule = schedule_of(config)
    assert schedule.total_nimg == 19_000_000
    assert [schedule.at(p.end_nimg).batch for p in schedule.phases if not p.fading] == [16] * 6 + [14, 6, 3]
    assert (config.networks.mbstd_group, config.networks.d_pool) == (16, "after")


def test_the_papers_cifar10_preset():
    config = load("paper-cifar10")
    assert schedule_of(config).total_nimg == 20_000_000
    assert (config.growth.max_res, config.loss.wgan_target, config.networks.latent_size) == (32, 750, 128)
    assert (config.networks.fmap_base, config.networks.fmap_max, config.data.mirror) == (4096, 128, False)


def test_the_eight_gpu_preset():
    schedule = schedule_of(load("v2-8gpu"))
    stable = [p for p in schedule.phases if not p.fading]
    assert [p.batch for p in stable] == [512, 256, 128, 64, 32, 32, 32, 32, 32]
    assert [p.lr_G for p in stable] == [0.001] * 5 + [0.0015, 0.002, 0.003, 0.003]
    assert schedule.total_nimg == 12_000_000


def test_a_file_is_a_diff_of_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[growth]\nmax_res = 32\nbatch = {base = 4, 16 = 8}\n")
    assert diff(Config(), load(str(path))) == {
        "growth.max_res": (1024, 32),
        "growth.batch": (Config().growth.batch, {"base": 4, "16": 8}),
    }


# --- overrides ---


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("growth.max_res=64", "growth.max_res", 64),
        (" growth.max_res = 64 ", "growth.max_res", 64),
        ("data.source=photos.zip", "data.source", "photos.zip"),
        ("data.source=a=b", "data.source", "a=b"),
        ('data.source="true"', "data.source", "true"),
        ("data.mirror=false", "data.mirror", False),
        ("data.balance=true", "data.balance", True),
        ("data.dequantise=true", "data.dequantise", True),
        ("data.labels=dress", "data.labels", ("dress",)),
        ("data.labels=shoes, dress ,", "data.labels", ("dress", "shoes")),
        ('data.labels=["shoes", "a, b", "shoes"]', "data.labels", ("a, b", "shoes")),
        ("data.labels=7", "data.labels", ("7",)),
        ("data.labels=7,03", "data.labels", ("03", "7")),
        ("data.labels=[7, 3]", "data.labels", ("3", "7")),
        ("data.labels=", "data.labels", ()),
        ("data.labels=[]", "data.labels", ()),
        ("training.micro_batch=8", "training.micro_batch", 8),
        ("training.micro_batch=auto", "training.micro_batch", "auto"),
        ("growth.fade_kimg=30", "growth.fade_kimg", 30),
        ("growth.fade_kimg.32=30", "growth.fade_kimg", {"base": 600.0, "32": 30}),
        ("growth.final_kimg=30", "growth.final_kimg", 30.0),
        ("loss.gp_norm=native", "loss.gp_norm", "native"),
        ("training.lr={base = 0.1, 8 = 0.2}", "training.lr", {"base": 0.1, "8": 0.2}),
    ],
)
def test_an_override_sets_one_knob(text, key, value):
    config = load(None, [text])
    assert flatten(config)[key] == value
    assert type(flatten(config)[key]) is type(value)
    assert set(diff(Config(), config)) <= {key}


def test_the_same_classes_in_another_order_are_the_same_configuration():
    assert load(None, ["data.labels=b,a,b"]) == load(None, ['data.labels=["a", "b"]'])
    assert binding_diff(load(None, ["data.labels=b,a"]), load(None, ["data.labels=a,c"])) == {
        "data.labels": (("a", "b"), ("a", "c"))
    }


@pytest.mark.parametrize(
    ("preset", "flags", "changed"),
    [
        ("default", [], {}),
        ("default", ["--label", "b", "--label", "a, c"], {"data.labels": ("a, c", "b")}),
        ("default", ["--label", "7", "--max-images", "12"], {"data.labels": ("7",), "data.max_images": 12}),
        ("default", ["--no-mirror"], {"data.mirror": False}),
        ("default", ["--mirror", "--set", "data.max_images=3"], {"data.max_images": 3}),
        ("paper-cifar10", ["--mirror"], {"data.mirror": True}),
        ("paper-cifar10", [], {}),
    ],
)
def test_the_flags_of_train_choose_the_pictures(preset, flags, changed, monkeypatch):
    from progan.commands import main
    from progan.training import loop

    asked = []
    monkeypatch.setattr(loop, "train", lambda config, *_: asked.append(config) or 0)
    assert main(["train", "--config", preset, *flags]) == 0
    assert {key: new for key, (_, new) in diff(load(preset), asked[0]).items()} == changed


def test_a_file_keeps_its_choice_of_pictures_where_no_flag_says_otherwise(tmp_path, monkeypatch):
    from progan.commands import main
    from progan.training import loop

    asked = []
    monkeypatch.setattr(loop, "train", lambda config, *_: asked.append(config.data) or 0)
    (tmp_path / "mine.toml").write_text('[data]\nlabels = ["a"]\nmax_images = 5\nmirror = false\n')
    for flags in ([], ["--label", "b"]):
        assert main(["train", "--config", str(tmp_path / "mine.toml"), *flags]) == 0
    assert [(data.labels, data.max_images, data.mirror) for data in asked] == [(("a",), 5, False), (("b",), 5, False)]


def test_an_override_of_one_entry_keeps_the_other_entries():
    config = load(None, ["growth.batch.64=6"])
    assert config.growth.batch == {**Config().growth.batch, "64": 6}
    assert Config().growth.batch["64"] == 32  # the default table itself is untouched
    assert load("lsun-256", ["growth.batch.64=6"]).growth.batch == {"base": 16, "64": 6}


def test_overrides_win_over_the_file_and_the_last_one_wins():
    config = load("quickstart", ["growth.max_res=16", "growth.max_res=64"])
    assert config.growth.max_res == 64
    assert config.growth.fade_kimg == load("quickstart").growth.fade_kimg


# --- differences ---


def test_a_diff_names_old_and_new():
    old, new = Config(), load(None, ["training.seed=7", "logging.keep=9", "data.source=x", "training.micro_batch=4"])
    assert diff(old, old) == {}
    assert diff(old, new) == {
        "data.source": ("faces", "x"),
        "training.seed": (1000, 7),
        "training.micro_batch": ("auto", 4),
        "logging.keep": (3, 9),
    }
    assert binding_diff(old, new) == {"training.seed": (1000, 7)}


@pytest.mark.parametrize("key", sorted(flatten(Config())))
def test_what_is_free_on_resume(key):
    section, _, name = key.partition(".")
    value = getattr(getattr(Config(), section), name)
    other = {**value, "base": 99} if isinstance(value, dict) else f"not {value}"
    changed = dataclasses.replace(
        Config(), **{section: dataclasses.replace(getattr(Config(), section), **{name: other})}
    )
    free = key in ("data.source", "training.micro_batch", "training.engine") or section in ("logging", "metrics")
    assert set(diff(Config(), changed)) == {key}
    assert set(binding_diff(Config(), changed)) == (set() if free else {key})


# --- what is wrong is named ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("growht.max_res=8", "no section `growht`; did you mean `growth`"),
        ("zzz.max_res=8", "no section `zzz`; there are data, growth, networks, loss, training, logging"),
        ("growth.max_rez=8", "no key `growth.max_rez`; did you mean `growth.max_res`"),
        ("growth.max_rez.8=8", "no key `growth.max_rez`; did you mean `growth.max_res`"),
        ("training.lr_rate.8=8", "no key `training.lr_rate`"),
        ("training.ema_bta=0.9", "did you mean `training.ema_beta`"),
        ("growth.qqqqqq=8", "no key `growth.qqqqqq`; there are max_res, start_res"),
        ("growth.max_res", "write it as section.key=value"),
        ("max_res=8", "write it as section.key=value"),
        ("growth.batch.64.x=8", "write it as section.key=value"),
        ("growth.max_res=8.0", r"growth.max_res is a whole number, not 8.0"),
        ("growth.max_res=big", "growth.max_res is a whole number, not 'big'"),
        ("growth.max_res=true", "growth.max_res is a whole number, not True"),
        ("growth.final_kimg=long", "growth.final_kimg is a number, not 'long'"),
        ("growth.final_kimg=true", "growth.final_kimg is a number, not True"),
        ("data.mirror=1", "data.mirror is true or false, not 1"),
        ("data.source=3", "data.source is a text, not 3"),
        ("data.balance=1", "data.balance is true or false, not 1"),
        ("data.dequantise=no", "data.dequantise is true or false, not 'no'"),
        ("data.labels=true", "data.labels is a list of texts, not True"),
        ("data.labels=[1.5]", r"data.labels is a list of texts, not \[1.5\]"),
        ("data.labels=[[1]]", r"data.labels is a list of texts, not \[\[1\]\]"),
        ("data.labels.8=x", "data.labels is a list of texts, not {'base': \\(\\), '8': 'x'}"),
        ('data.labels=["a", ""]', "data.labels names classes, and no name is empty"),
        ("data.source=[1]", r"data.source is a text, not \[1\]"),
        ("networks.d_pool=middle", "networks.d_pool is one of 'before', 'after', not 'middle'"),
        ("loss.gp_norm=2", "loss.gp_norm is one of 'full', 'native', not 2"),
        ("training.micro_batch=many", "training.micro_batch is a whole number, not 'many'"),
        ("training.micro_batch=0", "training.micro_batch is at least 1, or auto"),
        ("training.seed.8=2", "training.seed is a whole number"),
        ("growth.batch.48=2", "growth.batch has an entry for `48`; entries are base, 4, 8"),
        ("growth.batch.8=x", "growth.batch.8 is a number, not 'x'"),
        ("growth.batch=x", "growth.batch is a number, not 'x'"),
        ("growth.batch=true", "growth.batch is a number, not True"),
        ("growth.batch=0", "growth: the batch of 0 images"),
        ("growth.max_res=48", "growth: the resolution 48 is not a power of two"),
        ("growth.start_res=2048", "2048 is not a power of two"),
        ("growth.fade_kimg=-1", "negative length"),
        ("training.lr=-1", "learning rate at 4x4 is negative"),
        ("logging.tick_kimg=0", "tick at 4x4"),
        ("networks.channels=2", "networks.channels is 1 or 3"),
        ("networks.latent_size=0", "networks.latent_size is at least 1"),
        ("networks.fmap_base=256", "at least one feature map"),
        ("networks.fmap_max=0", "at least one feature map"),
        ("loss.wgan_target=0", "loss.wgan_target is above 0"),
        ("loss.wgan_target=nan", "loss.wgan_target is a number, not nan"),
        ("training.d_repeats=0", "training.d_repeats is at least 1"),
        ("networks.family=stylegan", "networks.family is one of 'progressive', 'dcgan', 'resnet', not 'stylegan'"),
        ("networks.g_weights=sn", "networks.g_weights is one of 'equalized', 'plain', 'spectral'"),
        ("networks.d_norm=pixel", "networks.d_norm is one of 'none', 'batch', 'layer', not 'pixel'"),
        ("networks.pixel_norm=true", "no key `networks.pixel_norm`"),
        ("networks.equalized=true", "no key `networks.equalized`"),
        ("networks.attention=48", "networks.attention is 0 or a resolution that the networks have, 8, 16, 32, .* 1024"),
        ("networks.attention=4", "networks.attention is 0 or a resolution"),
        ("networks.attention=2048", "networks.attention is 0 or a resolution"),
        ("networks.spectral_gain=0", "networks.spectral_gain is above 0"),
        ("networks.minibatch_discrimination=-1", "networks.minibatch_discrimination is at least 0"),
        ("networks.d_fmap_max=-1", "networks.d_fmap_max is at least 0"),
        ("loss.kind=softplus", "loss.kind is one of 'wgan', 'hinge', 'logistic', 'lsgan', 'bce', not 'softplus'"),
        ("loss.penalty=gp", "loss.penalty is one of 'wgan-gp', 'r1', 'none', not 'gp'"),
        ("loss.wgan_lambda=-1", "loss.wgan_lambda and wgan_epsilon are at least 0"),
        ("loss.r1_gamma=-1", "loss.r1_gamma is at least 0"),
        ("loss.r1_interval=0", "loss.r1_interval is at least 1"),
        ("loss.clip=-0.01", "loss.clip is at least 0"),
        ("training.optimizer=sgd", "training.optimizer is one of 'adam', 'rmsprop', not 'sgd'"),
        ("training.d_lr_ratio=0", "training.d_lr_ratio is above 0"),
        ("training.decay=cosine", "training.decay is one of 'none', 'linear', not 'cosine'"),
        ("training.decay_from=1", "training.decay_from is in 0..1"),
        ("training.decay_from=-0.1", "training.decay_from is in 0..1"),
        ("training.adam_beta1=1", "training.adam_beta1 and adam_beta2 are in 0..1"),
        ("training.adam_beta2=1.5", "training.adam_beta1 and adam_beta2 are in 0..1"),
        ("training.rmsprop_alpha=1", "training.rmsprop_alpha is in 0..1"),
        ("training.adam_epsilon=0", "training.adam_epsilon and rmsprop_epsilon are above 0"),
        ("training.rmsprop_epsilon=0", "training.adam_epsilon and rmsprop_epsilon are above 0"),
        ("training.ema_beta=1", "training.ema_beta"),
        ("training.ema_beta=-0.1", "training.ema_beta"),
        ("training.ema_kimg=-1", "training.ema_kimg is at least 0"),
        ("training.seed=-1", "training.seed is at least 0"),
        ("data.max_images=-1", "data.max_images is at least 0"),
        ("logging.keep=0", "logging.keep is at least 1"),
        ("logging.snapshot_ticks=-1", "logging ticks are at least 0"),
        ("logging.checkpoint_ticks=-1", "logging ticks are at least 0"),
        ("logging.keep_every=-1", "logging ticks are at least 0"),
    ],
)
def test_a_wrong_override_is_refused_and_named(text, message):
    with pytest.raises(UserError, match=message):
        load(None, [text])


@pytest.mark.parametrize(
    "text",
    [
        "growth.stable_kimg=inf",
        "growth.fade_kimg=nan",
        "growth.final_kimg=inf",
        "growth.batch=inf",
        "logging.tick_kimg=inf",
        "networks.fmap_decay=nan",
        "networks.fmap_decay=inf",
        "networks.fmap_decay=1e9",
        "networks.fmap_decay=-1e9",
    ],
)
def test_a_number_without_an_end_is_a_users_mistake_not_a_crash(text):
    with pytest.raises(UserError):
        load(None, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[growth\n", "mine.toml is not valid TOML"),
        ("growth = 3\n", "`growth` is a section, write growth.key = value"),
        ("[growth]\nmax_rez = 8\n", "no key `growth.max_rez`; did you mean `growth.max_res`"),
        ("[growht]\nmax_res = 8\n", "no section `growht`; did you mean `growth`"),
        ("max_res = 8\n", "no section `max_res`"),
        ("[growth]\nbatch = [1]\n", "growth.batch is a number"),
        ("[growth]\nbatch = {base = true}\n", "growth.batch.base is a number, not True"),
    ],
)
def test_a_wrong_file_is_refused_and_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value)


def test_an_override_into_what_is_no_section_is_a_users_mistake(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("growth = 3\n")
    with pytest.raises(UserError, match="`growth` is a section"):
        load(str(path), ["growth.max_res=8"])


def test_a_file_in_no_text_encoding_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(UserError, match="not valid TOML"):
        load(str(path))


def test_a_missing_file_and_a_missing_preset_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"nothing.toml: the file cannot be read"):
        load(str(tmp_path / "nothing.toml"))
    with pytest.raises(UserError, match=r"--config quikstart: no such preset; did you mean `quickstart`"):
        load("quikstart")
    with pytest.raises(UserError, match=r"no such preset; there are .*default.*quickstart"):
        load("zzzzzzzz")


def test_parse_names_its_origin():
    with pytest.raises(UserError, match=r"runs/a/config.toml is not valid TOML"):
        parse("x = ", "runs/a/config.toml")
    with pytest.raises(UserError, match=r"runs/a/config.toml: there is no section `x`"):
        parse("x = 1", "runs/a/config.toml")


def test_the_nearest_name_or_the_whole_list():
    assert nearest("fade", ["fades", "other"], "growth.") == "; did you mean `growth.fades`?"
    assert nearest("qqq", ["fades", "other"]) == "; there are fades, other"


def test_a_forbidden_width_is_found_at_the_final_resolution():
    widths = {r: config_module.smallest_maps(load(None, [f"growth.max_res={r}"])) for r in (4, 128, 1024)}
    assert widths == {4: 4096, 128: 128, 1024: 16}  # before the limit fmap_max
    assert config_module.smallest_maps(load(None, ["networks.fmap_base=256", "growth.max_res=512"])) == 1
    with pytest.raises(UserError, match="at least one feature map"):
        load(None, ["networks.fmap_base=256", "growth.max_res=1024"])


# --- techniques ---

SPECTRAL, STRICT = "networks.d_weights=spectral", "networks.d_weights=weightnorm-strict"
SLOW, NO_GP, HINGE = "training.lr=0.0001", "loss.penalty=none", "loss.kind=hinge"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["networks.d_norm=batch"],
            r"d_norm batch mixes .*penalty wgan-gp .*set networks.d_norm layer or none",
        ),
        (["networks.d_norm=batch", "loss.penalty=r1"], "d_norm batch mixes the images of a batch, and the penalty r1"),
        (["networks.d_norm=batch", SPECTRAL, NO_GP], "d_norm batch .*undoes .*d_weights spectral: set networks.d_norm"),
        (["loss.clip=0.01", SPECTRAL, NO_GP], "loss.clip bounds .*d_weights spectral divides .*set loss.clip 0"),
        (["loss.clip=0.01", STRICT, NO_GP], "loss.clip bounds .*d_weights weightnorm-strict divides"),
        (["loss.clip=0.01", "networks.d_weights=weightnorm"], "loss.clip bounds .*d_weights weightnorm divides"),
        (["networks.family=dcgan", "growth.start_res=8"], "start_res is about networks that grow: leave it out"),
        (["growth.max_res=16", "networks.attention=32"], "networks.attention is 0 or .* have, 8, 16$|, 8, 16\\."),
    ],
)
def test_pairs_that_cannot_work_are_refused_with_the_knob_to_change(texts, message):
    with pytest.raises(UserError, match=message):
        load(None, texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["networks.d_norm=batch", NO_GP],
        ["networks.d_norm=layer"],
        ["networks.d_norm=layer", SPECTRAL],
        ["networks.g_norm=batch", "networks.g_weights=spectral"],
        ["loss.clip=0.01", NO_GP],
        ["loss.clip=0.01", "networks.d_weights=plain", NO_GP],
        ["loss.clip=0.01", "networks.g_weights=spectral", NO_GP],
        ["networks.family=dcgan", "growth.max_res=64", "growth.start_res=64"],
        ["networks.family=resnet", "growth.max_res=64", "growth.start_res=4"],
        ["networks.minibatch_discrimination=100"],
        ["networks.attention=1024"],
    ],
)
def test_pairs_that_can_work_are_not_refused(texts):
    load(None, texts)


DOUBTS = [
    ([STRICT, NO_GP, "networks.d_norm=batch", "networks.d_activation=tprelu", HINGE, SLOW], "d_norm batch undoes part"),
    ([SPECTRAL, SLOW], "A spectral D can hardly have slopes of loss.wgan_target"),
    ([SPECTRAL, SLOW, NO_GP], "A spectral D with loss.kind wgan and no penalty is known to fail"),
    ([NO_GP], "Nothing keeps the scores of loss.kind wgan in bounds; set loss.penalty wgan-gp, or loss.clip"),
    (["loss.penalty=r1"], "loss.penalty r1 was made for loss.kind logistic"),
    (
        [STRICT, SLOW],
        "networks.d_weights weightnorm-strict has no biases; it was made for .*d_activation tprelu",
    ),
    (["networks.g_weights=weightnorm-strict", SLOW], "networks.g_weights weightnorm-strict has no biases"),
    (["networks.g_norm=none", "networks.g_weights=spectral", SLOW], "almost grey; .* networks.spectral_gain 2"),
    (["networks.g_norm=none", "networks.g_weights=plain", "networks.init=normal", SLOW], "almost grey; .*init he"),
    ([SPECTRAL, HINGE, NO_GP], "A rate of 0.0015 suits equalized weights; with networks.d_weights spectral"),
    (["networks.g_weights=plain", "training.lr=0.001"], "A rate of 0.001 suits .*networks.g_weights plain"),
    ([SPECTRAL, HINGE, NO_GP, SLOW, "training.d_lr_ratio=10"], "A rate of 0.001 suits .*networks.d_weights spectral"),
]


@pytest.mark.parametrize(("texts", "message"), DOUBTS)
def test_what_is_doubtful_is_said_once_and_allowed(texts, message):
    (said,) = doubts(load(None, texts))
    assert re.search(message, said)


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [SPECTRAL, HINGE, NO_GP, SLOW],
        [SPECTRAL, "loss.kind=logistic", SLOW],
        [SPECTRAL, "networks.spectral_learned=true", SLOW],
        [STRICT, "networks.d_activation=tprelu", "loss.kind=bce", NO_GP, SLOW],
        [NO_GP, "loss.clip=0.01"],
        [NO_GP, "loss.kind=lsgan"],
        ["loss.penalty=r1", "loss.kind=hinge"],
        ["networks.g_norm=none"],
        ["networks.g_norm=none", "networks.g_weights=plain", SLOW],
        ["networks.g_norm=none", "networks.g_weights=spectral", "networks.spectral_gain=2", SLOW],
        ["networks.g_norm=none", "networks.g_weights=spectral", "networks.spectral_learned=true", SLOW],
        [SPECTRAL, HINGE, NO_GP, "training.lr={base = 0.0001, 1024 = 0.001}", "growth.max_res=32"],
        [SPECTRAL, HINGE, NO_GP, "training.lr=0.001", "training.d_lr_ratio=0.2"],
    ],
)
def test_what_is_usual_is_not_doubted(texts):
    assert doubts(load(None, texts)) == []


def test_networks_that_do_not_grow_are_trained_at_their_one_resolution():
    config = load(None, ["networks.family=dcgan", "growth.final_kimg=3"], {"growth.max_res": 64})
    (phase,) = schedule_of(config).phases
    assert (phase.resolution, phase.fading, phase.nimg) == (64, False, 3000)
    assert not grows(config)
    assert grows(Config())


def test_d_has_a_rate_of_its_own():
    point = schedule_of(load(None, ["training.d_lr_ratio=4", "training.lr={base = 0.1, 8 = 0.2}"])).at(600_001)
    assert (point.resolution, point.lr_G, point.lr_D) == (8, 0.2, 0.8)
    assert schedule_of(load(None, ["training.d_lr_ratio=0.5", "training.lr=0.1"])).at(0).lr_D == 0.05


def test_rates_fall_only_where_that_is_asked_for():
    texts = ["training.decay_from=0.5", "growth.max_res=4", "growth.final_kimg=10", "training.lr=0.2"]
    assert schedule_of(load(None, texts)).at(9_000).lr_G == 0.2
    falling = schedule_of(load(None, [*texts, "training.decay=linear"]))
    assert [falling.at(n).lr_D for n in (0, 5_000, 7_500, 10_000)] == pytest.approx([0.2, 0.2, 0.1, 0])


def test_each_network_gets_its_own_knobs_by_their_plain_names():
    texts = ["g_weights=spectral", "d_norm=layer", "d_activation=relu", "d_fmap_max=128", "output=tanh"]
    config = load(None, [f"networks.{text}" for text in texts])
    of_G, of_D = generator_arguments(config), discriminator_arguments(config)
    assert (of_G["weights"], of_G["norm"], of_G["activation"], of_G["fmap_max"]) == ("spectral", "pixel", "lrelu", 512)
    assert (of_D["weights"], of_D["norm"], of_D["activation"], of_D["fmap_max"]) == ("equalized", "layer", "relu", 128)
    assert "output" not in of_D
    assert not {key for key in {*of_G, *of_D} if key.startswith(("g_", "spectral_iterate", "d_fmap"))}


@pytest.mark.parametrize(
    ("text", "coupled"),
    [
        ("g_norm=batch", True), ("d_norm=batch", True), ("minibatch_discrimination=5", True), ("d_norm=layer", False),
        ("mbstd_group=4", False),
    ],
)  # fmt: skip
def test_which_networks_see_a_batch_as_a_whole(text, coupled):
    assert couples_images(load(None, [f"networks.{text}", "loss.penalty=none"])) == coupled
