"""Whether scoring needs only the artifact, the tokenizer and the validation tokens: no network, no pickled code.

A call of a network library in code that can run is SUSPECT, for any purpose. So is a call of an object from a pickle,
because its code is in no text. Tensors and dictionaries from an artifact are used, never called. Source: README FAQ,
"fully self-contained".
"""

import ast
import re
from collections.abc import Iterator

from pargolf.audit.code.hidden.names import named_module
from pargolf.audit.code.program import Program
from pargolf.audit.code.search import names_in
from pargolf.audit.code.tree import Function, dotted, walk
from pargolf.audit.report import SUSPECT
from pargolf.audit.rules.rule import Hit

_NETWORK = (
    *("requests", "urllib.request", "urllib3", "http.client", "http.server", "socket", "ftplib", "aiohttp", "httpx"),
    *("paramiko", "boto3", "botocore", "smart_open", "gdown", "wget", "huggingface_hub", "datasets", "fsspec", "gcsfs"),
    *("websocket", "websockets", "torch.hub", "torch.utils.model_zoo", "tensorflow_hub", "s3fs", "xmlrpc", "smtplib"),
    *("pycurl", "telnetlib", "kagglehub", "modelscope", "google.cloud", "torch.distributed.rpc"),
    *("openai", "anthropic", "cohere", "replicate", "together", "litellm", "grpc", "paramiko", "zmq", "libtorrent"),
    *("google.generativeai", "google.genai", "ollama", "mistralai", "supabase", "pymongo", "redis", "psycopg2"),
    *("transformers.pipeline", "sentence_transformers", "gensim.downloader", "nltk.download", "spacy.cli"),
    *("asyncio.open_connection", "asyncio.create_connection", "asyncio.get_event_loop.create_connection"),
)
_INSIDE_NETWORK = tuple(f"{module}." for module in _NETWORK)
_DOWNLOADS = ("from_pretrained", "hf_hub_download", "snapshot_download", "urlopen", "urlretrieve", "load_dataset")
# Functions that give the name of this machine, or work without a connection.
_LOCAL = ("socket.gethostname", "socket.getfqdn", "huggingface_hub.constants", "urllib.parse")
_COMMANDS = ("curl", "wget", "aria2c", "scp", "rsync", "ssh", "huggingface-cli", "hf download", "gsutil", "aws ")
_ADDRESS = re.compile(r"(?:https?|ftp|s3|gs|hf|az|abfs|r2)://")
_SHELLS = ("os.system", "os.popen", "subprocess")
_LOADS = (
    *("pickle.load", "pickle.loads", "torch.load", "joblib.load", "dill.load", "dill.loads", "cloudpickle.load"),
    *("cloudpickle.loads", "pickle.Unpickler", "_pickle.loads", "shelve.open", "numpy.load", "np.load"),
)
_CALLERS = ("map", "filter", "starmap", "reduce", "partial", "apply", "Thread", "submit", "apply_", "checkpoint")
_PROGRAMS = ("torch.jit.load", "torch.package.PackageImporter", "torch.export.load", "onnxruntime.InferenceSession")
_MOVES = ("to", "cuda", "cpu", "eval", "train")  # a module gives itself back
_PROBE = "Probe: score without a network and with nothing but the script, the artifact, the tokenizer and the tokens."


def self_contained(program: Program) -> Iterator[Hit]:
    """Whether live code calls a network library, or an object from a pickle."""
    yield from _handed_on(program)
    for call in program.live_of(ast.Call):
        name = program.called(call)
        if _is_network(call, name):
            yield Hit(
                "self_contained",
                SUSPECT,
                call,
                f"`{name}` reaches for the network; what is scored has to be self-contained (README FAQ).",
                _PROBE,
            )
        elif name in _PROGRAMS:
            yield Hit(
                "self_contained",
                SUSPECT,
                call,
                f"`{name}` loads a program whose code is in no text of the submission.",
                _PROBE,
            )
        elif _calls_unpickled(program, call, program.function_of(call)):
            yield Hit(
                "self_contained",
                SUSPECT,
                call,
                f"`{ast.unparse(call.func)[:60]}` is called, and came from a pickle: its code is in no text of "
                "the submission.",
                _PROBE,
            )


def _handed_on(program: Program) -> Iterator[Hit]:
    """A function of a network library that is passed on or given another name: `partial(snapshot_download, ...)`."""
    for node in program.live_of(ast.Name):
        name, above = program.imported.get(node.id, ""), program.parents.get(node)
        called = isinstance(above, ast.Attribute) or (isinstance(above, ast.Call) and above.func is node)
        if name.startswith(_INSIDE_NETWORK) and not called and not name.startswith(_LOCAL) and _is_plain(node, above):
            text = f"`{name}` reaches for the network; what is scored has to be self-contained (README FAQ)."
            yield Hit("self_contained", SUSPECT, node, text, _PROBE)
            return


def _is_plain(node: ast.Name, above: ast.AST | None) -> bool:
    """Whether a name is used as a value, and not tested, as in `if snapshot_download is None`."""
    return isinstance(node.ctx, ast.Load) and not isinstance(above, (ast.Compare, ast.If, ast.UnaryOp, ast.BoolOp))


def _is_network(call: ast.Call, name: str) -> bool:
    if name.startswith(_LOCAL):
        return False
    if name.startswith(_INSIDE_NETWORK) or name in _NETWORK:
        return True
    if (module := named_module(call)) and module.startswith(_NETWORK):
        return True
    last = name.rsplit(".", 1)[-1]
    if last == "from_pretrained" and call.args and isinstance(call.args[0], ast.Constant):
        return "/" not in str(call.args[0].value)[:2]
    if last in _DOWNLOADS[1:]:
        return True
    if name.startswith(_SHELLS):
        texts = [n.value for n in walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        return any(text.startswith(_COMMANDS) or "http://" in text or "https://" in text for text in texts)
    constants = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    reads = last.startswith(("read_", "load", "open", "fetch", "get", "download", "urlopen", "from_"))
    return reads and any(isinstance(text, str) and _ADDRESS.match(text) for text in constants)


def _calls_unpickled(program: Program, call: ast.Call, function: Function) -> bool:
    """Whether the called object, or the one whose method is called, came from a pickle; also through functions."""
    target = call.func
    last = dotted(target).rsplit(".", 1)[-1] or getattr(target, "attr", "")
    if last in _CALLERS and any(_unpickled(program, a, function, 0) for a in call.args[:1]):
        return True
    if last.startswith("register_") and last.endswith("hook"):
        return any(_unpickled(program, a, function, 0) for a in call.args)
    if isinstance(target, ast.Call) and dotted(target.func) == "getattr" and target.args:
        return _unpickled(program, target.args[0], function, 0)
    if isinstance(target, ast.Name) and None in function.assigned.get(target.id, ()):  # a loop may assign it
        for node in program.own_nodes(function):
            loops = isinstance(node, (ast.For, ast.comprehension)) and target.id in names_in(node.target)
            if isinstance(node, (ast.For, ast.comprehension)) and loops and _unpickled(program, node.iter, function, 0):
                return True
    if isinstance(target, ast.Call):
        return program.called(target) in _LOADS
    if isinstance(target, (ast.Name, ast.Subscript)):
        return _unpickled(program, target, function, 0)
    if isinstance(target, ast.Attribute) and target.attr not in _DATA:
        return _unpickled(program, target.value, function, 0)
    return False


def _unpickled(program: Program, node: ast.AST, function: Function, depth: int) -> bool:
    """Whether an expression is a loaded object, or an element of one."""
    while isinstance(node, (ast.Subscript, ast.Await)) or (isinstance(node, ast.Attribute) and _is_part(node)):
        node = node.value
    if depth > 5:
        return False
    if isinstance(node, ast.Call):
        name = program.called(node)
        own_class = program.classes.get(name)
        if name in _LOADS or (own_class is not None and any(dotted(b).endswith("Unpickler") for b in own_class.bases)):
            return True
        if isinstance(node.func, ast.Attribute) and node.func.attr in (
            "get",
            "pop",
            "item",
            "tolist",
            "values",
            "load",
        ):
            return _unpickled(program, node.func.value, function, depth + 1)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _MOVES:
            whole = node.func.value
            parted = isinstance(whole, ast.Attribute) and _is_part(whole)
            return (parted or isinstance(whole, ast.Call)) and _unpickled(program, whole, function, depth + 1)
        return any(_returns_unpickled(program, callee, depth + 1) for callee in program.callees(node))
    if isinstance(node, ast.Name):
        scope: Function | None = function
        while scope is not None:
            if node.id in scope.assigned:
                sources = [s for s in scope.assigned[node.id] if s is not None]
                unpacked = [n.value for n in program.own_of(scope, ast.Assign) if _unpacks(n, node.id)]
                return any(_unpickled(program, s, scope, depth + 1) for s in (*sources, *unpacked))
            scope = None if node.id in scope.params else scope.parent
    return False


def _is_part(node: ast.Attribute) -> bool:
    """Whether an attribute may be an object of its own: a loaded `checkpoint.model`, but not a tensor's `data`."""
    return node.attr not in ("data", "T", "mT", "H", "grad", "real", "imag", "shape", "dtype", "device")


def _unpacks(node: ast.Assign, name: str) -> bool:
    """`first, name = value`."""
    return any(isinstance(t, (ast.Tuple, ast.List)) and name in names_in(t) for t in node.targets)


def _returns_unpickled(program: Program, function: Function, depth: int) -> bool:
    if function.owner is not None:
        return False
    returned = (n.value for n in program.own_of(function, ast.Return) if n.value is not None)
    return any(isinstance(v, (ast.Name, ast.Call)) and _unpickled(program, v, function, depth) for v in returned)


# Methods of dictionaries, lists, texts, bytes, arrays and tensors.
_DATA = frozenset(
    {
        *(
            name
            for kind in (dict, list, str, bytes, set, tuple, int)
            for name in dir(kind)
            if not name.startswith("__")
        ),
        *(
            "float",
            "double",
            "half",
            "bfloat16",
            "to",
            "cpu",
            "cuda",
            "view",
            "reshape",
            "contiguous",
            "clone",
            "detach",
        ),
        *(
            "numpy",
            "item",
            "sum",
            "mean",
            "size",
            "dim",
            "numel",
            "permute",
            "transpose",
            "t",
            "astype",
            "tolist",
            "int",
        ),
        *("long", "bool", "type", "squeeze", "unsqueeze", "expand", "flatten", "chunk", "unbind", "mul", "mul_", "abs"),
        *(
            "max",
            "min",
            "amax",
            "std",
            "norm",
            "square",
            "view_as",
            "tobytes",
            "close",
            "seek",
            "read",
            "is_floating_point",
        ),
        *(
            "state_dict",
            "any",
            "all",
            "element_size",
            "requires_grad_",
            "share_memory_",
            "pin_memory",
            "narrow",
            "repeat",
        ),
        *(
            "files",
            "ravel",
            "argmax",
            "argsort",
            "cumsum",
            "clamp",
            "clamp_",
            "add",
            "add_",
            "div",
            "div_",
            "sub",
            "pow",
        ),
        *("byte", "short", "char", "fill_", "zero_", "nonzero", "unfold", "untyped_storage", "index_select", "gather"),
    }
)
