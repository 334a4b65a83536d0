"""Conditions: CEL's meaning, what is refused when it is read, and the budget."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.cel import BUDGET, CelSyntaxError, compile_expression
from authsvc.core.cel.numbers import BudgetSpent, Duration, EvaluationError, Timestamp, Uint
from authsvc.core.conditions import MAX_BYTES, VARIABLES, ConditionFailed, check_condition, condition_of
from authsvc.core.errors import InvalidRequest

VALUES: dict[str, Any] = {
    "subject": "user:ann",
    "groups": ["desk", "eu"],
    "resource": "orders/7",
    "tenant": "acme",
    "scope": [],
    "context": {
        "mfa": True,
        "n": 2.0,
        "i": 3,
        "s": "text",
        "none": None,
        "list": [1, 2, 3],
        "map": {"a": 1, "b": 2},
        "long": "x" * 100_000,
        "many": list(range(1_000)),
        "lone": "\ud800",
        "tuple": (1, 2),
        "odd": object(),
        "huge": 1 << 70,
        "nested": [[[1]]],
    },
}

TRUE = r"""
true
!false
!(1 == 2)
1 == 1.0
1u == 1
1.0 == 1u
1 != "1"
null == null
context.none == null
context.none != false
true != 1
"a" < "b"
"Z" < "a"
"\u00e9" > "z"
b"a" < b"b"
false < true
1 < 1.5 && 1.5 < 2u && 2u <= 2 && 2 >= 2.0 && 3u > 2.5
2 + 3 * 4 == 14
(2 + 3) * 4 == 20
7 / 2 == 3 && -7 / 2 == -3 && 7 / -2 == -3 && -7 / -2 == 3
7 % 3 == 1 && -7 % 3 == -1 && 7 % -3 == 1
7u / 2u == 3u && 7u % 4u == 3u && 7u - 2u == 5u && 2u * 3u == 6u && 2u + 3u == 5u
7.0 / 2.0 == 3.5 && 1.5 + 1.5 == 3.0 && 1.5 * 2.0 == 3.0 && 1.5 - 0.5 == 1.0
1.0 / 0.0 > 1e308 && -1.0 / 0.0 < -1e308 && 1.0 / -0.0 < 0.0
0.0 / 0.0 != 0.0 / 0.0
- context.i == -3 && -context.n == -2.0
--1 == 1
1 - -1 == 2
0x1F == 31 && 0xFu == 15u && .5 == 0.5 && 1e2 == 100.0 && 1.5e-1 == 0.15
9223372036854775807 > 0 && -9223372036854775808 < 0 && 18446744073709551615u > 1
"a" + "b" == 'ab' && b"a" + b"b" == b"ab" && [1] + [2] == [1, 2]
'''a'b''' == "a'b" && ""\"" == ""
\"\"\"a"b\"\"\" == 'a"b'
r"\n" == "\\n" && R'\' == "\\" && "\x41\u0041\U00000041\101" == "AAAA" && "\a\b\f\n\r\t\v\?\`" != ""
b"\xff" == b"\377" && b"\n\101é" == b"\x0aA\xc3\xa9" && rb"\x" == b"\\x"
[1, 2][1] == 2 && [1, 2][1.0] == 2 && [1, 2][0u] == 1 && {"a": 1}["a"] == 1 && {1: 2}[1u] == 2
{"a": 1}.a == 1 && {"a": 1,}.a == 1 && [1,].size() == 1
{true: 1}[true] == 1 && !(1 in {true: 1}) && 1.0 in {1: 2}
{true: 1}.all(k, k == true) && {1: 2}.exists(k, k == 1)
[1, 2.0, 3u] == [1u, 2, 3.0] && {"a": [1]} == {"a": [1.0]} && [1] != [1, 2] && [1] != [2]
{"a": 1} != {"b": 1} && {"a": 1} != {"a": 2} && {"a": 1} != {"a": 1, "b": 2} && {} == {} && [] == []
context.tuple == [1, 2] && context.tuple[0] == 1 && 2 in context.tuple
2 in context.list && !(4 in context.list) && "a" in context.map && !("z" in context.map)
has(context.mfa) && !has(context.nope) && has(context.none)
context.nope == 1 || true
true || context.nope == 1
!(false && context.nope == 1)
!(context.nope == 1 && false)
1 || true
!(1 && false)
true ? true : context.nope
false ? context.nope : true
context.list.all(x, x > 0) && !context.list.all(x, x > 1) && [].all(x, x)
context.list.exists(x, x == 2) && ![].exists(x, x)
context.list.exists(x, x == 2 || x.nope)
!context.list.all(x, x != 1 && x.nope)
context.list.exists_one(x, x == 2) && !context.list.exists_one(x, x > 1)
context.list.map(x, x * 2) == [2, 4, 6] && context.list.map(x, x > 1, x * 2) == [4, 6]
context.list.filter(x, x > 1) == [2, 3]
context.map.all(k, context.map[k] > 0) && context.map.filter(k, k == "a") == ["a"]
[1, 2].all(x, [3, 4].all(x, x > 2) && x < 3)
[1].all(subject, subject == 1) && subject == "user:ann"
size("añb") == 3 && "abc".size() == 3 && size([1]) == 1 && size({"a": 1}) == 1 && size(b"ab") == 2
"abc".contains("b") && "abc".startsWith("ab") && "abc".endsWith("bc") && !"abc".contains("z")
"abc".matches("^a.c$") && !"abc".matches("^b") && matches("xbx", "b") && "a\nb".matches("a\\nb")
int("42") == 42 && int(-3.9) == -3 && int(7u) == 7 && int(timestamp("1970-01-01T00:00:09Z")) == 9 && int(5) == 5
uint("42") == 42u && uint(3.9) == 3u && uint(7) == 7u && uint(7u) == 7u
double("1.5") == 1.5 && double(2) == 2.0 && double(2u) == 2.0 && double(1.5) == 1.5 && double("1e3") == 1000.0
bool("true") && !bool("false") && bool(true)
string(1) == "1" && string(1u) == "1" && string(1.0) == "1" && string(1.5) == "1.5" && string(true) == "true"
string("a") == "a" && string(b"a") == "a" && bytes("a") == b"a" && bytes(b"a") == b"a" && string(false) == "false"
dyn(true)
timestamp("2026-01-01T00:00:00Z") < timestamp("2026-01-01T00:00:00.000000001Z")
timestamp("2026-01-01T02:00:00+02:00") == timestamp("2026-01-01T00:00:00Z")
timestamp(0) == timestamp("1970-01-01T00:00:00Z")
timestamp("1969-12-31T22:30:00-01:30") == timestamp(timestamp("1970-01-01t00:00:00z"))
timestamp(10) - timestamp(4) == duration("6s") && timestamp(10) - duration("4s") == timestamp(6)
timestamp(1) + duration("1s") == timestamp(2) && duration("1s") + timestamp(1) == timestamp(2)
duration("1h30m") + duration("-30m") == duration("3600s") && duration("1h") - duration("1m") == duration("59m")
duration("1.5s") == duration("1500ms") && duration("1us") == duration("1000ns")
duration(duration("0")) == duration("0s")
string(duration("1h0.5s")) == "3600.5s" && string(duration("-2s")) == "-2s"
string(timestamp("2026-02-03T04:05:06.7Z")) == "2026-02-03T04:05:06.7Z"
string(timestamp(0)) == "1970-01-01T00:00:00Z"
timestamp("2026-02-03T04:05:06.789Z").getFullYear() == 2026 && timestamp(0).getMonth() == 0
timestamp(0).getDate() == 1
timestamp(0).getDayOfMonth() == 0 && timestamp(0).getDayOfWeek() == 4 && timestamp(0).getDayOfYear() == 0
timestamp(0).getHours() == 0 && timestamp(0).getHours("+02:00") == 2 && timestamp(0).getHours("-01:30") == 22
timestamp(0).getMinutes("01:30") == 30 && timestamp(0).getSeconds("UTC") == 0
timestamp("2026-02-03T04:05:06.789Z").getMilliseconds() == 789
duration("90m").getHours() == 1 && duration("90s").getMinutes() == 1 && duration("-90s").getMinutes() == -1
duration("1.5s").getSeconds() == 1 && duration("1.5s").getMilliseconds() == 500
true // the rest is a comment
subject == "user:ann" && "desk" in groups && resource == 'orders/7' && tenant == "acme" && size(scope) == 0
context.huge > 1
"?" == "\?" && ":" != "?"
in_house.all(in_house, true) || true
"""


def value(text: str) -> object:
    return compile_expression(text, {*VARIABLES, "in_house"}).value(VALUES | {"in_house": []})


@pytest.mark.standard("P13")
@pytest.mark.parametrize("text", TRUE.replace('\\"\\"\\"', '"""').replace('""\\""', '""""""').strip().splitlines())
def test_cel_means_what_its_specification_says(text: str) -> None:
    assert value(text) is True


FAILS = r"""
context.nope
context.nope == 1
context.s.nope == 1
has(context.s.nope)
has(subject.nope)
1 || false
false || context.nope
true && context.nope
"a" ? true : false
!1 == 1
-"a" == "a"
-1u == 1
-(-9223372036854775808) == 1
9223372036854775807 + 1 == 0
-9223372036854775808 - 1 == 0
9223372036854775807 * 2 == 0
-9223372036854775808 / -1 == 0
0u - 1u == 0u
18446744073709551615u + 1u == 0u
1 / 0 == 0
1 % 0 == 0
1.5 % 1.0 == 0.5
1 + 1.0 == 2.0
1 + 1u == 2
1 - "a" == 1
"a" - "a" == ""
"a" * 2 == "aa"
1 / 1.0 == 1.0
true + true == 2
null + null == null
1 < "a"
[1] < [2]
null < null
context.odd < context.odd
1 in "a"
1 in 1
1.5 in {1: 2}
[] in {1: 2}
[1][1] == 1
[1][-1] == 1
[1][0.5] == 1
[1]["a"] == 1
"a"[0] == "a"
{"a": 1}["b"] == 1
{"a": 1, "a": 2} == {}
{1: 1, 1u: 2} == {}
{null: 1} == {}
{1.5: 1} == {}
1.all(x, true)
context.list.all(x, x.nope)
context.list.all(x, 1)
context.list.exists(x, x > 5 || x.nope)
context.list.exists_one(x, x.nope)
context.list.filter(x, 1) == []
context.list.map(x, 1, x) == []
size(1) == 1
1.contains("a")
"a".contains(1)
context.i.matches("a")
context.lone.matches("a")
int("a") == 1
int("99999999999999999999") == 1
int(1e30) == 1
int(0.0 / 0.0) == 1
int(18446744073709551615u) == 1
int(context.huge) == 1
int(true) == 1
uint(-1) == 1u
uint(-1.0) == 1u
uint("-1") == 1u
uint(1e30) == 1u
double("a") == 1.0
double(context.huge) == 1.0
double(true) == 1.0
bool("yes")
bool(1)
string(null) == ""
string(context.huge) == ""
string(b"\xff") == ""
bytes(1) == b""
timestamp("2026-01-01") == timestamp(0)
timestamp("2026-13-01T00:00:00Z") == timestamp(0)
timestamp("2026-01-01T00:00:00+24:00") == timestamp(0)
timestamp("2026-01-01T00:00:00+01:60") == timestamp(0)
timestamp(999999999999) == timestamp(0)
timestamp(1.5) == timestamp(0)
timestamp(0) + timestamp(0) == timestamp(0)
timestamp("9999-12-31T23:59:59Z") + duration("1s") == timestamp(0)
timestamp("9999-12-31T23:59:59Z").getHours("+02:00") == 1
timestamp(0).getHours("Europe/Berlin") == 1
timestamp(0).getHours(1) == 1
duration("1") == duration("0")
duration("9999999h") == duration("0")
duration(1) == duration("0")
duration("1s").getFullYear() == 1
duration("1s").getHours("UTC") == 1
1.getHours() == 1
context.s
context.n
context.list[0]
true ? context.s : 1
"""


@pytest.mark.standard("P5", "P13")
@pytest.mark.parametrize("text", FAILS.strip().splitlines())
def test_what_has_no_value_fails_and_is_no_bool(text: str) -> None:
    with pytest.raises(ConditionFailed):
        compile_expression(text, VARIABLES).holds(VALUES)


REFUSED = r"""
1 +
(true
true)
true true
[1, 2
{"a" 1}
{"a": 1
"a
'a
a"b
"\q"
"\x4"
"\ud800"
"\U00110000"
b"\u0041"
"\400"
1 ? 2
a.
a.1
a.in
in
1 in
nope
upper("a") == "A"
"a".upper() == "A"
has(subject)
has()
has(context.a, context.b)
matches("a") == 1
"a".matches(subject)
"a".matches(1)
"a".matches("(")
"a".matches("(?=a)")
"a".matches("(a)\\1")
"a".matches("(a{1000}){3}")
"a".matches("a{900}b{900}")
"a".contains()
"a".contains("b", "c")
contains("a", "b")
"a".int() == 1
context.list.all(x)
context.list.all(1, true)
context.list.all(x, y, z)
context.list.map(x, y, z, w)
context.list.map(x, x, y) == []
if
package == 1
var(1) == 1
9223372036854775808 > 0
-9223372036854775809 < 0
18446744073709551616u > 0u
99999999999999999999999999999999999999 > 0
&& true
true &&
= 1
true & true
@
1
"a"
1 + 1
-(1)
[true]
{"a": true}
size("a")
true ? 1 : "a"
context.list.map(x, x)
context.list.filter(x, x)
null
""".strip().splitlines()


@pytest.mark.standard("P13")
@pytest.mark.parametrize("text", [*REFUSED, "", " "])
def test_what_is_no_condition_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(CelSyntaxError):
        compile_expression(text, VARIABLES)


@pytest.mark.standard("P13")
@pytest.mark.parametrize(
    "deep",
    [
        "(" * 33 + "true" + ")" * 33,
        "!" * 33 + "true",
        "[" * 33 + "]" * 33 + " == []",
        "1" + " + 1" * 33 + " == 1",
        "context" + ".a" * 33,
        "-" * 34 + "1 == 1",
        "(" * 4000,
    ],
)
def test_depth_is_bounded_at_32(deep: str) -> None:
    with pytest.raises(CelSyntaxError, match="deeper than 32"):
        compile_expression(deep, VARIABLES)


@pytest.mark.standard("P13")
def test_depth_of_32_and_long_chains_of_logic_are_taken() -> None:
    assert value("(" * 31 + "true" + ")" * 31) is True
    assert value("1" + " + 1" * 30 + " == 31") is True
    assert value(" && ".join(["true"] * 500)) is True


@pytest.mark.standard("P13")
def test_length_is_bounded_at_4_kib_of_utf_8() -> None:
    longest = '"' + "a" * (MAX_BYTES - 8) + '"' + " != 1"
    assert len(longest) == MAX_BYTES - 1
    assert check_condition(longest) == longest
    for text in (longest + "  ", '"' + "é" * 2045 + '" != 1'):
        with pytest.raises(InvalidRequest, match="longer than 4096"):
            check_condition(text, "bindings[0].condition")


@pytest.mark.standard("P13")
@pytest.mark.parametrize(
    "text",
    [
        "context.many.all(a, context.many.all(b, a + b >= 0))",
        "context.many.map(a, context.many)[0] == []",
        "context.many.map(a, a).map(a, a).map(a, a) == []",
        "context.many + context.many + context.many == []",
        "context.many in [context.list, context.many] && context.many == context.many",
        "context.list.map(x, context.long + context.long).size() == 3",
        "context.list.map(a, context.list.map(b, context.long.contains('y'))) == []",
        "context.list.map(a, context.long.matches('(x+x+)+y')) == []",
        "context.list.map(a, context.long == context.long + '') == []",
        "context.list.map(a, context.long < context.long + 'a') == []",
        "context.list.map(a, string(bytes(context.long))) == []",
        "context.many.all(a, subject.matches('a'))",
        "[1,2,3,4,5,6,7,8].all(a,[1,2,3,4,5,6,7,8].all(b,[1,2,3,4,5,6,7,8].all(c,[1,2,3,4,5,6,7,8].all(d,a+b+c+d>0))))",
    ],
)
def test_over_budget_is_an_error_that_no_operator_absorbs(text: str) -> None:
    with pytest.raises(BudgetSpent):
        value(text)
    with pytest.raises(ConditionFailed, match=f"more than {BUDGET} steps"):
        compile_expression(f"{text} || true", VARIABLES).holds(VALUES)


@pytest.mark.standard("P13")
def test_an_expression_larger_than_the_budget_is_refused_when_it_is_read() -> None:
    with pytest.raises(CelSyntaxError, match="steps"):
        compile_expression("1 in [" + "1," * BUDGET + "]", VARIABLES)


def test_nesting_of_a_value_is_bounded() -> None:
    nested: Any = []
    for _ in range(100):
        nested = [nested]
    other: Any = []
    for _ in range(100):
        other = {"a": other}
    with pytest.raises(EvaluationError, match="nested"):
        compile_expression("context.a == context.b", VARIABLES).value({"context": {"a": nested, "b": [*nested]}})
    with pytest.raises(EvaluationError, match="nested"):
        compile_expression("context.a == context.b", VARIABLES).value({"context": {"a": other, "b": {**other}}})


@pytest.mark.standard("P13")
@given(st.text(max_size=200) | st.text(alphabet="()[]{}.,:?!&|<>=+-*/%'\"\\abinrux01 ", max_size=60))
def test_any_text_compiles_or_is_refused_and_any_condition_answers_or_fails(text: str) -> None:
    try:
        compiled = compile_expression(text, VARIABLES)
    except CelSyntaxError:
        return
    with suppress(ConditionFailed):
        assert compiled.holds(VALUES) in (True, False)


@given(st.integers(-(1 << 64), 1 << 64), st.integers(-(1 << 64), 1 << 64))
def test_whole_numbers_are_exact_or_out_of_range(left: int, right: int) -> None:
    for operator, exact in (("+", left + right), ("-", left - right), ("*", left * right)):
        expression = compile_expression(f"dyn(context.a {operator} context.b)", VARIABLES)
        try:
            assert expression.value({"context": {"a": left, "b": right}}) == exact
        except EvaluationError:
            assert not -(1 << 63) <= exact < 1 << 63


@pytest.mark.standard("P5")
def test_a_condition_that_does_not_compile_always_fails() -> None:
    for text in ("nope", "x" * 5_000, "1 +"):
        with pytest.raises(ConditionFailed):
            condition_of(text).holds(VALUES)


def test_an_empty_condition_is_none_at_all() -> None:
    assert check_condition("") == ""


def test_evaluating_leaves_the_variables_as_they_were() -> None:
    variables = {"context": {"l": [1, 2]}, "subject": "s"}
    assert compile_expression("context.l.all(subject, subject > 0) && subject == 's'", VARIABLES).holds(variables)
    assert variables == {"context": {"l": [1, 2]}, "subject": "s"}


def test_types_are_named_in_messages() -> None:
    for text, name in (("1u + 'a' == 1", "uint, str"), ("timestamp(0) < duration('1s')", "timestamp, duration")):
        with pytest.raises(ConditionFailed, match=name):
            compile_expression(text, VARIABLES).holds(VALUES)
    assert value("dyn(1u)") == Uint(1)
    assert value("dyn(timestamp(1))") == Timestamp(1_000_000_000)
    assert value("dyn(duration('1ns'))") == Duration(1)


@pytest.mark.standard("P13")
def test_a_policy_without_conditions_never_imports_cel() -> None:
    program = """
import sys
from authsvc.core.bindings import BindingIndex
from authsvc.core.policy import compile_policy, Question, decide
from authsvc.core.policy_document import parse
policy = compile_policy(parse('{"version": 1, "permissions": {"a:b": {}}, "roles": {"r": {"allow": ["a:b"]}},'
    '"bindings": [{"subject": "user:a", "role": "r"}]}'))
assert decide(policy, BindingIndex.from_bindings(policy.bindings), Question("user:a", "a:b"), now=0).allowed
assert not [name for name in sys.modules if name == "re2" or name.startswith("authsvc.core.cel")]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
