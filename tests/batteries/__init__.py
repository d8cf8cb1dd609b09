"""Batteries: many ways to disturb this package, each an endless row of trials that end well or are counted as faults.

    trial.py           what a trial is, how it ends, and the row of the table
    kills.py           runs killed, signalled, or without room on the disk, that must go on to the same bytes
    beside.py          runs side by side, one of whose processes gets a signal
    terminal.py        the command line among devices, encodings, streams and processes that are not there
    artifacts.py       artifacts changed, cut, or forged with true checksums
    specs.py           stored recipes and artifact headers with a field changed
    run_files.py       result.json, events.jsonl and all other files of runs and data with something changed
    inputs.py          tokenizers, shards, weights, texts, submissions, records of studies, changed
    checkpoints.py     checkpoints changed or cut, that must be refused, or go on to the same bytes
    doctored.py        runs edited so that they look better, which submit and audit must notice
    imports.py         checkpoints of published scripts, altered
    moving_data.py     data files changed while a run goes on

The tests run a few trials of each; `benchmarks/reliability.py` as many as fit into its minutes.
"""
