"""Results: every line comes back, a crash costs one line at most, and what training will measure again is dropped."""

import json

from progan.metrics.results import Result, add_result, floor_name, forget_beyond, headline, lines, read_results

ONE = Result(8000, "swd", {"swd": 4.125, "swd_16": 5.0, "swd_floor": 1.0, "swd_floor_16": 2.0}, {"reals": 10}, 0.5)
OTHER = Result(9000, "ms_ssim", {"ms_ssim": 0.5}, {"reals": 10}, 0.1, "generator-000009.safetensors", "ab")


def test_results_come_back_in_their_order(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    for result in (ONE, OTHER, ONE):
        add_result(path, result)
    assert read_results(path) == [ONE, OTHER, ONE]
    assert [json.loads(line)["nimg"] for line in path.read_text().splitlines()] == [8000, 9000, 8000]


def test_no_file_holds_no_results(tmp_path):
    assert read_results(tmp_path / "metrics.jsonl") == []


def test_a_line_that_a_crash_cut_off_harms_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    add_result(path, ONE)
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    add_result(path, OTHER)
    assert read_results(path) == [ONE, OTHER]


def test_lines_of_other_programs_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"nimg": 3}\n[1, 2]\nnonsense\n')
    assert read_results(path) == []


def test_a_result_is_known_by_all_that_its_numbers_depend_on():
    def key(**changes):
        return Result(**(vars(OTHER) | changes)).key

    assert key() == key(values={"ms_ssim": 0.7}) == key(sec=9.0) == key(file="generator-final.safetensors")
    assert len({key(), key(snapshot="cd"), key(metric="swd"), key(protocol={"reals": 11})}) == 4


def test_what_training_measured_beyond_a_point_is_forgotten(tmp_path):
    path = tmp_path / "metrics.jsonl"
    later = Result(8001, "swd", {"swd": 1.0}, {}, 0.1)
    for result in (ONE, later, OTHER):
        add_result(path, result)
    forget_beyond(path, 8000)
    assert read_results(path) == [ONE, OTHER], "what was measured of a file stays"
    forget_beyond(tmp_path / "none.jsonl", 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_floors_are_named_after_their_numbers():
    names = {("swd", "swd"): "swd_floor", ("swd", "swd_32"): "swd_floor_32", ("diversity", "colour"): "colour_floor"}
    assert {pair: floor_name(*pair) for pair in names} == names


def test_a_result_for_people_has_each_number_beside_its_floor():
    assert lines(ONE) == ["  swd     4.125  floor 1", "  swd_16      5  floor 2"]
    assert headline(ONE) == "swd 4.125 (floor 1)"
    assert headline(OTHER) == "ms_ssim 0.5"
