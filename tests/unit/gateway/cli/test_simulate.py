import json

import pytest
from click.testing import CliRunner

from gateway.cli.main import cli


def run(*arguments):
    return CliRunner().invoke(cli, ["simulate", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    (tmp_path / "trace.csv").write_text("application,second,calls\nshop,0,1\nshop,30,2\n")
    entry = {"start_offset_s": 0, "duration_s": 0.4, "packages": {}}
    (tmp_path / "apps.json").write_text(json.dumps({"shop": {"t_payment_method": entry, "fp_notification": entry}}))
    return ("--trace", tmp_path / "trace.csv", "--applications", tmp_path / "apps.json")


def test_one_policy_gives_one_document(files):
    done = run(*files, "--policy", "keepalive", "--keep-alive", 10, "--memory-budget", "1.5GiB", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["requests"] == 6
    assert (found["cold_starts"], found["starts"]["helped"], found["starts"]["warm"]) == (2, 2, 2)
    assert found["parameters"]["keep_alive_s"] == 10
    assert found["parameters"]["memory_bytes"] == 3 << 29
    assert (found["parameters"]["trace"], found["parameters"]["seed"]) == ("trace.csv", 0)


def test_several_policies_give_a_list_and_a_table_for_people(files):
    both = ("--policy", "keepalive", "--policy", "adaptive")
    assert [one["policy"] for one in json.loads(run(*files, *both, "--json").output)] == ["keepalive", "adaptive"]
    table = run(*files, *both)
    assert table.exit_code == 0
    lines = table.output.splitlines()
    assert lines[0].split()[:3] == ["POLICY", "REQUESTS", "COLD"]
    assert lines[1].split()[:2] == ["keepalive", "6"]


def test_other_settings_of_policies_are_set_by_name(files):
    done = run(*files, "--policy", "prewarm", "--set", "stem_cells=5", "--set", "inherits_last_use=true", "--json")
    found = json.loads(done.output)["parameters"]
    assert (found["stem_cells"], found["inherits_last_use"]) == (5, True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--policy", "best"),
            "choose one of adaptive, keepalive, pagurus, prewarm, sock",
        ),
        (("--policy", "keepalive", "--set", "x=1"), "no setting 'x'; there are"),
        (("--policy", "keepalive", "--set", "stem_cells=many"), "stem_cells must be int, not 'many'"),
        (("--policy", "keepalive", "--memory-budget", "much"), "'much' is no size: write 4GiB"),
        (("--policy", "keepalive", "--profile", "absent.json"), "cannot read the profile absent.json: No such file"),
        (("--policy", "keepalive", "--trace", "absent.csv"), "cannot read absent.csv: No such file"),
        ((), "give --trace and --policy, or --synthesize"),
    ],
)
def test_what_is_wrong_is_said_with_the_next_step(files, more, said):
    done = run(*files, *more)
    assert done.exit_code in (1, 2)
    assert said in done.output


def test_a_function_that_was_not_measured_says_what_measures_it(files, tmp_path):
    entry = {"start_offset_s": 0, "duration_s": 1}
    (tmp_path / "apps.json").write_text(json.dumps({"shop": {"unknown": entry}}))
    done = run(*files, "--policy", "keepalive")
    assert done.exit_code == 1
    assert "the profile does not have unknown" in done.output
    assert "run scripts/bench/profile" in done.output


def test_a_trace_without_its_second_file_is_wrong_usage(files, tmp_path):
    done = run(*files[:2], "--policy", "keepalive")
    assert (done.exit_code, "give --applications" in done.output) == (2, True)
    (tmp_path / "azure.csv").write_text("HashOwner,HashApp,HashFunction,Trigger,1\n")
    done = run("--trace", tmp_path / "azure.csv", "--policy", "keepalive")
    assert (done.exit_code, "give --durations" in done.output) == (2, True)


def test_a_made_up_set_can_be_simulated(tmp_path):
    made = run("--synthesize", tmp_path, "--functions", 20, "--minutes", 10)
    invocations, durations, memory = made.output.split()
    done = run("--trace", invocations, "--durations", durations, "--memory", memory, "--policy", "keepalive", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["requests"] > 0
