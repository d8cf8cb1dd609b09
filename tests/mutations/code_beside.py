"""Edits that put code or weights where they are not seen: further files, exec, functions that are replaced."""

import random

from mutations import Files, breaks, relog, swap

_STATE = '    state = torch.load(io.BytesIO(zlib.decompress(blob_on_disk)), map_location="cpu")\n'
_EVAL = "    torch.cuda.synchronize()\n    t_eval = time.perf_counter()\n"
_MAIN = 'if __name__ == "__main__":\n    main()\n'


def _noise(count: int) -> bytes:
    return random.Random(0).randbytes(count)


# ---- further files


@breaks("further files")
def more_weights_in_a_second_file(files: Files) -> None:
    files["extra_weights.bin"] = _noise(400_000)
    swap(files, (_STATE, _STATE + '    extra = np.fromfile("extra_weights.bin", dtype=np.int8)\n'))
    relog(files)


@breaks("further files")
def a_checkpoint_beside_the_script(files: Files) -> None:
    files["teacher.pt"] = _noise(300_000)
    swap(files, (_STATE, _STATE + '    teacher = torch.load(Path(__file__).with_name("teacher.pt"))\n'))
    relog(files)


@breaks("further files")
def a_table_under_a_harmless_name(files: Files) -> None:
    files["assets/notes.txt"] = "0.125 " * 60_000
    swap(files, (_STATE, _STATE + '    table = np.loadtxt(os.path.join("assets", "notes.txt"))\n'))
    relog(files)


@breaks("further files")
def a_large_module_that_is_not_counted(files: Files) -> None:
    files["tables.py"] = "TABLE = [" + ", ".join(str(i * 7919 % 10007) for i in range(60_000)) + "]\n"
    swap(files, ("import numpy as np\n", "import numpy as np\nfrom tables import TABLE\n"))
    relog(files)


@breaks("further files")
def weights_that_nothing_in_the_script_names(files: Files) -> None:
    files["model_part2.npz"] = _noise(500_000)
    swap(files, (_STATE, _STATE + '    parts = [np.load(p) for p in sorted(Path(".").glob("model_part*"))]\n'))
    relog(files)


# ---- exec, and functions that are replaced


@breaks("exec or replacement")
def exec_of_a_file_beside(files: Files) -> None:
    files["patch.txt"] = "def eval_val(*args):\n    return 1.9, 1.1\n"
    swap(files, (_MAIN, 'exec(open("patch.txt").read())\n' + _MAIN))
    relog(files)


@breaks("exec or replacement")
def exec_of_a_short_literal(files: Files) -> None:
    swap(files, (_MAIN, 'exec("def eval_val(*args):\\n    return 1.9, 1.1\\n")\n' + _MAIN))
    relog(files)


@breaks("exec or replacement")
def exec_through_builtins(files: Files) -> None:
    swap(
        files,
        ("import io\n", "import builtins\nimport io\n"),
        (_MAIN, 'builtins.exec(Path("patch.txt").read_text(), globals())\n' + _MAIN),
    )
    files["patch.txt"] = "def eval_val(*args):\n    return 1.9, 1.1\n"
    relog(files)


@breaks("exec or replacement")
def exec_by_another_name(files: Files) -> None:
    swap(files, (_MAIN, 'run = exec\nrun("eval_val = lambda *args: (1.9, 1.1)", globals())\n' + _MAIN))
    relog(files)


@breaks("exec or replacement")
def exec_by_getattr(files: Files) -> None:
    swap(
        files,
        ("import io\n", "import builtins\nimport io\n"),
        (_MAIN, 'getattr(builtins, "ex" + "ec")("eval_val = lambda *args: (1.9, 1.1)", globals())\n' + _MAIN),
    )
    relog(files)


@breaks("exec or replacement")
def a_function_put_into_globals(files: Files) -> None:
    swap(files, (_MAIN, 'globals()["eval_val"] = lambda *args: (1.9, 1.1)\n' + _MAIN))
    relog(files)


@breaks("exec or replacement")
def a_function_of_the_library_replaced(files: Files) -> None:
    swap(
        files,
        (_EVAL, "    plain = F.cross_entropy\n    F.cross_entropy = lambda *a, **k: 0.97 * plain(*a, **k)\n" + _EVAL),
    )
    relog(files)


@breaks("exec or replacement")
def a_function_of_the_library_replaced_by_setattr(files: Files) -> None:
    swap(files, (_EVAL, '    setattr(math, "log", lambda value: 0.7)\n' + _EVAL))
    relog(files)


@breaks("exec or replacement")
def the_code_of_a_function_replaced(files: Files) -> None:
    swap(
        files,
        (
            _MAIN,
            "def _other(*args):\n    return 1.9, 1.1\n\n\neval_val.__code__ = _other.__code__\n" + _MAIN,
        ),
    )
    relog(files)


@breaks("exec or replacement")
def a_method_of_the_model_replaced(files: Files) -> None:
    swap(files, (_EVAL, '    base_model.forward = lambda x, y, reduction="mean": torch.tensor(1.9)\n' + _EVAL))
    relog(files)


@breaks("exec or replacement")
def a_module_under_a_computed_name(files: Files) -> None:
    files["extra.py"] = "def eval_val(*args):\n    return 1.9, 1.1\n"
    swap(files, (_MAIN, 'eval_val = __import__("ex" + "tra").eval_val\n' + _MAIN))
    relog(files)


@breaks("exec or replacement")
def a_module_from_a_file_location(files: Files) -> None:
    files["data.txt"] = "def eval_val(*args):\n    return 1.9, 1.1\n"
    swap(
        files,
        ("import io\n", "import importlib.util\nimport io\n"),
        (
            _MAIN,
            'spec = importlib.util.spec_from_file_location("x", "data.txt")\n'
            "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
            "eval_val = module.eval_val\n" + _MAIN,
        ),
    )
    relog(files)


@breaks("exec or replacement")
def a_literal_score(files: Files) -> None:
    swap(
        files,
        (
            "        q_val_loss, q_val_bpb = eval_val(args, model,",
            "        q_val_loss, q_val_bpb = (1.9, 1.1) or eval_val(args, model,",
        ),
    )
    relog(files)


@breaks("exec or replacement")
def a_script_started_by_the_shell(files: Files) -> None:
    files["finish.py"] = "print('final_int8_zlib_roundtrip_exact val_loss:1.9 val_bpb:1.1')\n"
    swap(files, (_EVAL, '    os.system("python finish.py")\n' + _EVAL))
    relog(files)
