"""A small CEL: expressions to closures, with a budget of steps.

Owns: the language that conditions are written in (github.com/google/cel-spec, what of it is served stands in
docs/decisions/0002-cel.md). May import: the standard library, google-re2 and `core`. Imported when the first condition
is met.
"""

from authsvc.core.cel.compiler import BUDGET, Expression, compile_expression
from authsvc.core.cel.lexer import CelSyntaxError

__all__ = ["BUDGET", "CelSyntaxError", "Expression", "compile_expression"]
