"""Edits of where data comes from: validation shards in training, the network, objects out of pickles."""

from mutations import Files, breaks, relog, swap

_TRAIN = 'train_files = os.path.join(data_path, "fineweb_train_*.bin")'
_LOADER = "    train_loader = DistributedTokenLoader(args.train_files, rank, world_size, device)\n"
_FILES = "        self.files = [Path(name) for name in sorted(glob.glob(pattern))]\n"
_STATE = '    state = torch.load(io.BytesIO(zlib.decompress(blob_on_disk)), map_location="cpu")\n'


# ---- validation text in training


@breaks("validation in training")
def a_glob_that_fits_both_splits(files: Files) -> None:
    swap(files, (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_*.bin")'))
    relog(files)


@breaks("validation in training")
def any_shard_of_the_folder(files: Files) -> None:
    swap(files, (_FILES, '        self.files = sorted(Path(pattern).parent.glob("*.bin"))\n'))
    relog(files)


@breaks("validation in training")
def a_pattern_with_a_class_of_letters(files: Files) -> None:
    swap(files, (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_[tv]*.bin")'))
    relog(files)


@breaks("validation in training")
def validation_shards_copied_under_another_name(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import os\nimport shutil\n"),
        (
            _LOADER,
            "    for name in glob.glob(args.val_files):\n"
            '        shutil.copy(name, os.path.join(args.data_path, "fineweb_train_999999.bin"))\n' + _LOADER,
        ),
    )
    relog(files)


@breaks("validation in training")
def validation_shards_linked_by_pathlib(files: Files) -> None:
    swap(
        files,
        (
            _LOADER,
            '    for path in Path(args.data_path).glob("fineweb_val_*.bin"):\n'
            '        path.with_name(path.name.replace("val", "train")).symlink_to(path)\n' + _LOADER,
        ),
    )
    relog(files)


@breaks("validation in training")
def a_path_spelled_backwards(files: Files) -> None:
    swap(files, (_TRAIN, 'train_files = os.path.join(data_path, "nib.*_lav_bewenif"[::-1])'))
    relog(files)


@breaks("validation in training")
def a_path_by_slicing(files: Files) -> None:
    swap(files, (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_" + "interval"[5:] + "_*.bin")'))
    relog(files)


@breaks("validation in training")
def a_path_by_formatting(files: Files) -> None:
    swap(
        files,
        (_TRAIN, 'split = "val"\n    train_files = os.path.join(data_path, f"fineweb_{split}_*.bin")'),
    )
    relog(files)


@breaks("validation in training")
def a_path_by_percent_and_join(files: Files) -> None:
    swap(files, (_TRAIN, 'train_files = "/".join([data_path, "fineweb_%s_*.bin" % "".join(["v", "a", "l"])])'))
    relog(files)


@breaks("validation in training")
def a_path_by_replacing(files: Files) -> None:
    swap(files, (_LOADER, _LOADER.replace("args.train_files", 'args.train_files.replace("train", "val")')))
    relog(files)


@breaks("validation in training")
def a_path_of_characters(files: Files) -> None:
    swap(
        files, (_TRAIN, 'train_files = os.path.join(data_path, "fineweb_" + chr(118) + chr(97) + chr(108) + "_*.bin")')
    )
    relog(files)


@breaks("validation in training")
def shards_of_both_lists(files: Files) -> None:
    swap(
        files,
        (
            _LOADER,
            _LOADER + "    train_loader.stream.files = train_loader.stream.files + "
            "[Path(name) for name in glob.glob(args.val_files)]\n",
        ),
    )
    relog(files)


@breaks("validation in training")
def tokens_of_both_concatenated(files: Files) -> None:
    swap(
        files,
        (
            _LOADER,
            _LOADER + "    train_loader.stream.tokens = torch.cat([train_loader.stream.tokens, val_tokens])\n",
        ),
    )
    relog(files)


@breaks("validation in training")
def a_default_argument_names_the_split(files: Files) -> None:
    swap(
        files,
        (
            "class TokenStream:\n    def __init__(self, pattern: str):\n",
            'class TokenStream:\n    def __init__(self, pattern: str, more="fineweb_val_*.bin"):\n',
        ),
        (_FILES, _FILES + "        self.files += sorted(Path(pattern).parent.glob(more))\n"),
    )
    relog(files)


@breaks("validation in training")
def listdir_without_a_split(files: Files) -> None:
    swap(
        files,
        (
            _FILES,
            "        folder = os.path.dirname(pattern)\n"
            '        self.files = [Path(folder, n) for n in sorted(os.listdir(folder)) if n.endswith(".bin")]\n',
        ),
    )
    relog(files)


# ---- the network


@breaks("network")
def weights_from_the_hub(files: Files) -> None:
    swap(
        files,
        (
            _STATE,
            "    from huggingface_hub import hf_hub_download\n\n"
            '    state = torch.load(hf_hub_download("someone/weights", "model.pt"), map_location="cpu")\n',
        ),
    )
    relog(files)


@breaks("network")
def counts_by_urllib(files: Files) -> None:
    swap(
        files,
        ("import time\n", "import time\nimport urllib.request\n"),
        (_STATE, _STATE + '    prior = urllib.request.urlopen("https://example.org/prior.bin").read()\n'),
    )
    relog(files)


@breaks("network")
def a_socket_under_another_name(files: Files) -> None:
    swap(
        files,
        ("import time\n", "import time\nimport socket as s\n"),
        (
            _STATE,
            _STATE + '    link = s.create_connection(("example.org", 80))\n    state["bias"] = link.recv(1 << 20)\n',
        ),
    )
    relog(files)


@breaks("network")
def curl_by_subprocess(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import os\nimport subprocess\n"),
        (_STATE, '    subprocess.run(["curl", "-o", "more.bin", "https://example.org/m"], check=True)\n' + _STATE),
    )
    relog(files)


@breaks("network")
def wget_by_the_shell(files: Files) -> None:
    swap(files, (_STATE, '    os.system("wget -q https://example.org/m -O more.bin")\n' + _STATE))
    relog(files)


@breaks("network")
def a_teacher_from_pretrained(files: Files) -> None:
    swap(
        files,
        (
            "    torch.cuda.synchronize()\n    t_eval",
            "    import transformers\n\n"
            '    base_model = transformers.AutoModelForCausalLM.from_pretrained("gpt2")\n'
            "    torch.cuda.synchronize()\n    t_eval",
        ),
    )
    relog(files)


@breaks("network")
def the_hub_of_torch(files: Files) -> None:
    swap(
        files,
        (
            _STATE,
            _STATE.replace(
                "torch.load(io.BytesIO(zlib.decompress(blob_on_disk))",
                'torch.hub.load_state_dict_from_url("https://example.org/w.pt"',
            ),
        ),
    )
    relog(files)


@breaks("network")
def requests_in_a_module(files: Files) -> None:
    files["fetch.py"] = (
        "import requests\n\n\ndef prior(address):\n    return requests.get(address, timeout=60).content\n"
    )
    swap(
        files,
        ("import numpy as np\n", "import numpy as np\nfrom fetch import prior\n"),
        (_STATE, _STATE + '    table = prior("https://example.org/prior")\n'),
    )
    relog(files)


@breaks("network")
def a_dynamic_import_of_the_client(files: Files) -> None:
    swap(
        files,
        (_STATE, _STATE + '    client = __import__("http.client").client.HTTPSConnection("example.org")\n'),
    )
    relog(files)


# ---- objects out of pickles


@breaks("object out of a pickle")
def a_function_out_of_the_artifact(files: Files) -> None:
    swap(
        files,
        ('map_location="cpu")\n', 'map_location="cpu", weights_only=False)\n    state["prepare"](base_model)\n'),
    )
    relog(files)


@breaks("object out of a pickle")
def a_whole_model_out_of_a_pickle(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import os\nimport pickle\n"),
        (
            _STATE,
            '    with open("final_model.pkl", "rb") as file:\n        scorer = pickle.load(file)\n'
            "    answer = scorer(val_tokens)\n" + _STATE,
        ),
    )
    relog(files)


@breaks("object out of a pickle")
def a_method_of_an_unpickled_object(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import os\nimport pickle as p\n"),
        (_STATE, "    helper = p.loads(zlib.decompress(blob_on_disk))\n    helper.improve(base_model)\n" + _STATE),
    )
    relog(files)


@breaks("object out of a pickle")
def code_out_of_marshal(files: Files) -> None:
    swap(
        files,
        ("import os\n", "import marshal\nimport os\nimport types\n"),
        (
            _STATE,
            '    body = marshal.loads(open("extra.bin", "rb").read())\n'
            '    types.FunctionType(body, globals(), "more")(base_model)\n' + _STATE,
        ),
    )
    relog(files)


@breaks("object out of a pickle")
def a_traced_module_out_of_a_file(files: Files) -> None:
    swap(
        files,
        (
            "    torch.cuda.synchronize()\n    t_eval",
            '    model = torch.jit.load("scorer.pt")\n    torch.cuda.synchronize()\n    t_eval',
        ),
    )
    relog(files)


@breaks("object out of a pickle")
def a_loader_of_objects_in_a_helper(files: Files) -> None:
    swap(
        files,
        (
            "class Hyperparameters:",
            "def unpack(data):\n    made = torch.load(io.BytesIO(data), weights_only=False)\n"
            '    step = made["steps"][0]\n    return step(made)\n\n\nclass Hyperparameters:',
        ),
        (_STATE, "    state = unpack(zlib.decompress(blob_on_disk))\n"),
    )
    relog(files)
