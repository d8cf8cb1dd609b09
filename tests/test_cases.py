"""Inputs that failed on somebody, 27 rows of them, and the tests that hold what each gives now.

The rows are those of a list of reports and of faults made on purpose; `cases/` has the two files that came with it. A
row names every test that it rests on, and two rows have theirs here.
"""

import ast
import re
import resource
from pathlib import Path

import pytest
import small
from forks import ended, forked
from typer.testing import CliRunner

import pargolf
from pargolf.cli import app
from pargolf.core.errors import UserError
from pargolf.core.spec import edit

HERE = Path(__file__).parent
ROWS = """
1 a tokenizer without a piece for the space
    proof::a_space_that_is_spelled_in_bytes_counts_once_or_proves_nothing
2 shards of another tokenizer of the same size
    proof::shards_beside_another_tokenizer_of_the_same_size_are_refused
3 spaces inside pieces
    tokenizers::pieces_with_spaces_inside_count_one_byte_for_each
    proof::an_inner_space_is_one_byte
4 shards twice, missing, of a second split; no BOS; one token
    proof::a_copy_of_a_shard_is_named
    proof::a_training_shard_twice_or_missing_is_named
    proof::validation_without_bos_or_of_one_token_is_one_line
5 shards that change during a run
    proof::validation_that_changes_after_the_proof_ends_the_scoring
    proof::training_data_that_changes_ends_the_run_which_others_cannot_resume
6 too few seconds to score all
    cases::a_score_of_a_part_ends_the_command_and_fails_the_audit
    run::the_terminal_scores_generates_and_prices
7 a recipe with techniques of its own
    own::every_kind_of_technique_in_the_recipe_is_somebody_s
    own::the_script_holds_the_files_and_gives_the_run_s_number
8 describe of any script
    own::a_script_is_not_run_to_see_that_it_is_no_recipe
9 Hessians that are none
    gptq::a_hessian_that_is_none_is_refused_by_its_name
    gptq::a_hessian_that_is_not_positive_is_packed_with_all_the_same
10 names and wrappings of state dicts; nothing quantized
    checkpoints::what_wrapping_puts_before_names_is_taken_off
    checkpoints::a_state_dict_is_taken_out_of_what_holds_it
    checkpoints::an_artifact_all_of_whose_tensors_were_kept_is_read
11 codecs, MLX, safetensors, old torch.save
    checkpoints::every_codec_of_the_field_is_told_by_its_bytes
    checkpoints::what_mlx_saves_is_read
    checkpoints::the_mlx_scripts_artifact_is_read
    checkpoints::safetensors_and_old_torch_saves_are_read
12 Git LFS pointers and pages of HTML
    strange_files::a_git_lfs_pointer_is_named_whatever_it_stands_for
    strange_files::a_page_of_html_is_named_whatever_it_stands_for
13 tokenizer.json of Llama 2's kind; .model.v1
    tokenizers::a_marked_tokenizer_is_exact_and_proved
    tokenizers::mistrals_suffix_is_a_sentencepiece_model
14 tokenizers that change a text
    tokenizers::the_rule_that_loses_something_is_named
    tokenizers::what_the_tokenizer_keeps_is_counted_where_that_is_asked_for
15 tables and their columns
    text::every_kind_of_table_gives_the_same_documents
    text::a_usual_name_or_the_only_column_of_strings_is_taken_and_said
    text::the_command_says_what_it_took
16 devices that are not there
    terminal::a_device_that_is_not_there_is_refused_with_those_that_are
17 little memory
    cases::a_model_too_large_for_the_memory_is_one_line
    machines::under_a_limit_on_address_space_training_goes_on_in_smaller_passes
    terminal::memory_too_small_for_the_libraries_is_one_line
18 encodings, locales, closed streams, stray variables
    terminal::an_encoding_without_a_letter_gets_another
    terminal::a_locale_without_utf_8_is_enough
    terminal::streams_that_are_gone_closed_or_full_end_nothing
    terminal::variables_that_describe_no_processes_are_one_line
19 many runs under torchrun
    together::seeds_run_on_all_processes_and_the_first_one_says_what_came_of_it
20 rates and steps out of range; no step
    strict::a_recipe_out_of_range_is_refused_with_the_range
    report::what_speaks_against_a_number_stands_on_the_first_line
21 scripts that do nothing
    audit_reading::a_script_that_does_nothing_is_not_passed
22 logs in JSON, scores however set
    audit_reading::a_log_in_json_is_read
    audit_reading::a_score_is_read_however_it_is_set
23 a script of a million lines
    audit_reading::a_script_without_end_is_bounded_and_says_so
24 results with anything where a number stands
    result::a_field_that_does_not_fit_is_named_with_its_file
    result::no_edit_of_a_run_s_files_makes_a_reader_fall_over
    audit_reading::an_odd_number_in_submission_json_ends_as_a_finding
25 artifacts that cannot be, checksums true
    strict::an_artifact_that_cannot_be_is_refused_by_name
    pack::a_forged_header_is_refused_before_it_costs_memory
26 signals
    reliability::two_signals_20_ms_apart_end_the_run_at_once_with_its_state
    reliability::a_signal_outside_training_ends_the_run_and_resume_goes_on_there
27 a full disk
    reliability::a_disk_that_is_full_for_a_while_costs_checkpoints_and_nothing_else
    reliability::a_disk_that_is_full_again_at_resume_loses_nothing
"""


@pytest.mark.parametrize("row", re.split(r"\n(?=\d)", ROWS.strip()))
def test_a_row_names_tests_that_exist(row):
    _, *names = row.split("\n    ")
    assert names
    for file, test in (name.split("::") for name in names):
        tree = ast.parse((HERE / f"test_{file}.py").read_text(encoding="utf-8"))
        assert f"test_{test}" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_score_of_a_part_ends_the_command_and_fails_the_audit(data, tmp_path, monkeypatch, quick_code, quick_page):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from small import RECIPE\n")
    done = CliRunner().invoke(
        app, ["train", "mine.py", "train.steps=1", "budget.eval_seconds=0.001", "--data", str(data), "--out", "part"]
    )
    assert done.exit_code == 2 and "Only the first" in done.output and "the number counts for nothing" in done.output
    audited = CliRunner().invoke(app, ["audit", "part"])
    assert audited.exit_code == 2 and audited.output.startswith("FAIL by two_pass"), audited.output


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size of its address space from /proc")
def test_a_model_too_large_for_the_memory_is_one_line(data, tmp_path, quick_code):
    """No pass is small enough: width, length and vocabulary are named."""
    recipe = edit(small.RECIPE, {"model.dim": 6144, "budget.bytes": 1_000_000_000})

    def work():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
        with pytest.raises(UserError, match=r"Memory ran out .* a model 6144 wide on 16 tokens with a vocabulary of"):
            pargolf.train(recipe, data=data, out=tmp_path / "run", seed=1).result()

    assert ended(forked(work)) == 0
