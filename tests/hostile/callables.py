"""Callables that scanners with a list of bad names were published to miss, each with arguments that do harm.

Sources: the advisories of picklescan from CVE-2025-1716 to GHSA-vvpj-8cmc-gx39, those of fickling up to
GHSA-6ggj-6f2q-f7mx, and the issues that they answer.
"""

from __future__ import annotations

import marshal
import pickle

from hostile.rows import CANARY, COMMAND, DECOY, EXPRESSION, MKDIR, Hostile, called, stack_global
from pickling import group, mapping, name, number, pickled, raw_bytes, reduce, text

NESTED = pickle.dumps({}, 2)[:2] + reduce(MKDIR, text(CANARY)) + pickle.STOP
CODE = marshal.dumps(compile(EXPRESSION, "x", "eval"))


def _listed(*items):
    return pickle.MARK + b"".join(items) + pickle.LIST


_FUNCTION = reduce(
    stack_global("types", "FunctionType"),
    reduce(stack_global("marshal", "loads"), raw_bytes(CODE)),
    mapping(
        __builtins__=reduce(
            stack_global("builtins", "vars"),
            reduce(stack_global("importlib", "import_module"), text("builtins")),
        )
    ),
)
_OS = reduce(stack_global("importlib", "import_module"), text("os"))

RUN = {
    "os.system": called("os", "system", text(COMMAND)),
    "posix.system": called("posix", "system", text(COMMAND)),
    "os.mkdir": called("os", "mkdir", text(CANARY)),
    "subprocess.call": called("subprocess", "call", _listed(text("mkdir"), text(CANARY))),
    "subprocess.getoutput": called("subprocess", "getoutput", text(COMMAND)),
    "commands.getoutput, of Python 2": pickled(reduce(name("commands", "getoutput"), text(COMMAND))),
    "builtins.exec": called("builtins", "exec", text(EXPRESSION)),
    "builtins.eval": called("builtins", "eval", text(EXPRESSION)),
    "__builtin__.eval, of Python 2": pickled(reduce(name("__builtin__", "eval"), text(EXPRESSION))),
    "timeit.timeit": called("timeit", "timeit", text(EXPRESSION)),
    "cProfile.runctx": called("cProfile", "runctx", text(EXPRESSION), pickle.EMPTY_DICT, pickle.EMPTY_DICT),
    "profile.Profile.run": pickled(
        reduce(
            stack_global("profile", "Profile.run"),
            reduce(stack_global("profile", "Profile")),
            text(EXPRESSION),
        ),
        protocol=4,
    ),
    "trace.Trace.run": pickled(
        reduce(stack_global("trace", "Trace.run"), reduce(stack_global("trace", "Trace")), text(EXPRESSION)),
        protocol=4,
    ),
    "bdb.Bdb.run": pickled(
        reduce(stack_global("bdb", "Bdb.run"), reduce(stack_global("bdb", "Bdb")), text(EXPRESSION)),
        protocol=4,
    ),
    "code.InteractiveInterpreter.runcode": pickled(
        reduce(
            stack_global("code", "InteractiveInterpreter.runcode"),
            reduce(stack_global("code", "InteractiveInterpreter")),
            text(EXPRESSION),
        ),
        protocol=4,
    ),
    "uuid._get_command_stdout": called("uuid", "_get_command_stdout", text("mkdir"), text(CANARY)),
    "_osx_support._read_output": called("_osx_support", "_read_output", text(COMMAND)),
    "pydoc.pipepager": called("pydoc", "pipepager", text(""), text(COMMAND)),
    "_io.FileIO": called("_io", "FileIO", text(CANARY), text("w")),
    "io.open": called("io", "open", text(CANARY), text("w")),
    "shutil.copyfile": called("shutil", "copyfile", text("/etc/passwd"), text(CANARY)),
    "logging.FileHandler": called("logging", "FileHandler", text(CANARY)),
    "sqlite3.connect": called("sqlite3", "connect", text(CANARY)),
    "zipfile.ZipFile": called("zipfile", "ZipFile", text(CANARY), text("w")),
    "runpy._run_code": called(
        "runpy",
        "_run_code",
        text(EXPRESSION),
        mapping(),
        pickle.NONE,
        text("x"),
        pickle.NONE,
        text("x"),
        pickle.NONE,
    ),
    "pickle.loads, a pickle within": called("pickle", "loads", raw_bytes(NESTED)),
    "_pickle.loads, a pickle within": called("_pickle", "loads", raw_bytes(NESTED)),
    "marshal.loads and types.FunctionType": pickled(reduce(_FUNCTION), protocol=4),
    "functools.partial": pickled(
        reduce(reduce(stack_global("functools", "partial"), MKDIR, text(CANARY))), protocol=4
    ),
    "operator.methodcaller": pickled(
        reduce(reduce(stack_global("operator", "methodcaller"), text("mkdir"), text(CANARY)), _OS), protocol=4
    ),
    "operator.attrgetter": pickled(
        reduce(reduce(reduce(stack_global("operator", "attrgetter"), text("mkdir")), _OS), text(CANARY)),
        protocol=4,
    ),
    "builtins.getattr": pickled(
        reduce(reduce(stack_global("builtins", "getattr"), _OS, text("mkdir")), text(CANARY)), protocol=4
    ),
    "pkgutil.resolve_name": pickled(
        reduce(reduce(stack_global("pkgutil", "resolve_name"), text("os:mkdir")), text(CANARY)), protocol=4
    ),
    "numpy.testing._private.utils.runstring": called(
        "numpy.testing._private.utils", "runstring", text(EXPRESSION), mapping()
    ),
    "numpy.f2py.crackfortran.myeval": called("numpy.f2py.crackfortran", "myeval", text(EXPRESSION)),
    "numpy.memmap": called("numpy", "memmap", text(CANARY), text("u1"), text("w+"), number(0), number(8)),
    "an import that is enough": pickled(stack_global(DECOY, "anything"), protocol=4),
    "an import by a name that is long and dotted": pickled(
        stack_global(f"{DECOY}.{'x' * 100}", "anything.at.all"), protocol=4
    ),
}

NOT_TRIED = {
    "os.popen": called("os", "popen", text(COMMAND)),
    "numpy.load": called("numpy", "load", text("x"), pickle.NONE, pickle.NEWTRUE),
    "pip.main": called("pip", "main", _listed(text("install"), text("x"))),
    "nt.system": called("nt", "system", text(COMMAND)),
    "torch.utils.bottleneck.__main__.run_autograd_prof": called(
        "torch.utils.bottleneck.__main__", "run_autograd_prof", text(EXPRESSION), mapping()
    ),
    "torch._rebuild_tensor_v2, the way around weights_only": called(
        "torch._utils", "_rebuild_tensor_v2", pickle.NONE, number(0), group(number(1 << 30)), group(number(1))
    ),
    "idlelib.run.Executive.runcode": called(
        "idlelib.run", "Executive.runcode", pickle.NONE, text(EXPRESSION)
    ),
    "lib2to3.pgen2.grammar.Grammar.loads": called(
        "lib2to3.pgen2.grammar", "Grammar.loads", pickle.NONE, raw_bytes(NESTED)
    ),
    "asyncio.unix_events, a module within a listed one": called(
        "asyncio.unix_events", "_UnixSubprocessTransport._start", pickle.EMPTY_DICT, text(COMMAND)
    ),
    "distutils.file_util.write_file": called(
        "distutils.file_util", "write_file", text(CANARY), _listed(text("x"))
    ),
    "_interpreters.run_string": called("_interpreters", "run_string", number(0), text(EXPRESSION)),
    "pty.spawn": called("pty", "spawn", text("sh")),
    "ctypes.CDLL": called("ctypes", "CDLL", text("/tmp/x.so")),
    "ensurepip._run_pip": called("ensurepip", "_run_pip", _listed(text("check"))),
    "socket.create_connection": called("socket", "create_connection", group(text("localhost"), number(9))),
    "webbrowser.open": called("webbrowser", "open", text("http://localhost")),
    "dill.loads": called("dill", "loads", raw_bytes(NESTED)),
    "joblib.load": called("joblib", "load", text("x")),
    "__main__, the loader's own names": pickled(name("__main__", "main")),
    "a name in another script": pickled(stack_global("\u043es", "system"), protocol=4),
}

CALLABLES = {
    key: Hostile(data, "unsafe_opcode" if ".eval" in key else "unsafe_global") for key, data in RUN.items()
} | {key: Hostile(data, "unsafe_global", works=False) for key, data in NOT_TRIED.items()}
