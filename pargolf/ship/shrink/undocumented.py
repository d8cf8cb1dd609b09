"""The program without docstrings, annotations and assertions, and with error messages cut to their first words."""

import ast

from pargolf.ship.shrink.tree import TreeTransformer, walk


class WithoutDocstrings(TreeTransformer):
    """Removes docstrings, annotations and assertions; fields of a dataclass keep a minimal annotation."""

    def _body(self, node: ast.AST) -> ast.AST:
        body = [s for s in node.body if not _is_text(s)]  # type: ignore[attr-defined]
        node.body = body or [ast.Pass()]  # type: ignore[attr-defined]
        return self.generic_visit(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Remove the docstring."""
        return self._body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Give fields the shortest possible annotation; turn class variables into plain assignments."""
        node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
        tuple_like = any("NamedTuple" in ast.dump(base) for base in node.bases)
        data = tuple_like or any("dataclass" in ast.dump(d) for d in node.decorator_list)
        for i, inner in enumerate(node.body):
            if isinstance(inner, ast.AnnAssign):
                if data and "ClassVar" not in ast.dump(inner.annotation):
                    inner.annotation = ast.Name("int", ast.Load()) if tuple_like else ast.Constant(0)
                elif inner.value is not None:
                    node.body[i] = ast.Assign([inner.target], inner.value)
            else:
                node.body[i] = self.visit(inner)
        node.body = [s for s in node.body if data or not isinstance(s, ast.AnnAssign)] or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Remove the return annotation, and the `*` before keyword-only arguments."""
        node.returns = None
        args = node.args
        required = [a for a, default in zip(args.kwonlyargs, args.kw_defaults) if default is None]
        if not args.vararg and not (required and args.defaults):
            pairs = [(a, d) for a, d in zip(args.kwonlyargs, args.kw_defaults) if d is not None]
            args.args += required + [a for a, _ in pairs]
            args.defaults += [d for _, d in pairs]
            args.kwonlyargs, args.kw_defaults = [], []
        return self._body(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Remove the assertion; only the readable form checks invariants."""
        return ast.Pass()

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Keep only the first words of the error's message."""
        if isinstance(node.exc, ast.Call) and ast.unparse(node.exc.func).endswith("Error"):
            node.exc.args = [_first_words(arg) for arg in node.exc.args]
        node.cause = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Remove the annotation."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Turn it into a plain assignment, or remove it if it assigns nothing."""
        self.generic_visit(node)
        return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()


def _first_words(message: ast.expr) -> ast.expr:
    """The first four literal words of a message; other arguments stay."""
    if not isinstance(message, ast.JoinedStr | ast.Constant | ast.BinOp):
        return message
    texts = [n.value for n in walk(message) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return ast.Constant(" ".join(" ".join(texts).split()[:4])) if texts else message


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
