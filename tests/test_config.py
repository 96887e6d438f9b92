"""Laws of the configuration: it survives its own file, a diff names what differs, and whatever is wrong is named."""

import dataclasses
import tomllib

import pytest

from progan import config as config_module
from progan.config import (
    Config,
    binding_diff,
    diff,
    discriminator_arguments,
    dump,
    flatten,
    generator_arguments,
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
        "pixel_norm": True, "equalized": True, "leaky_slope": 0.2,
    }  # fmt: skip
    assert discriminator_arguments(Config()) == {
        "max_res": 1024, "channels": 3, "fmap_base": 8192, "fmap_max": 512, "fmap_decay": 1.0,
        "equalized": True, "mbstd_group": 4, "d_pool": "before", "leaky_slope": 0.2,
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
    assert len(diff(Config(), load(name))) <= 15
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
