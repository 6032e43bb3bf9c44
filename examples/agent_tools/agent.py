"""A tool loop whose tools can be taken back: what an agent has done is kept, or all of it is undone.

    python examples/agent_tools/agent.py

The model is a script, so that the example needs no key and always says the same; the loop is as with any other: it gets
tool calls with ids, hands results and errors back, and ends when the model does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import troth

INBOX: list[str] = []
CALENDAR: dict[str, str] = {}
FAILURES = {"send_mail": 1}
"""The mail server does not answer its first request."""


def recall_mail(ctx: troth.UndoContext) -> None:
    """Undo of send_mail. Nobody knows whether the mail of a request that was not answered went out: so it looks."""
    text = f"{ctx['to']}: {ctx['text']}"
    if text in INBOX:
        INBOX.remove(text)


@troth.undoable(compensate=recall_mail, name="send_mail")
def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    if FAILURES["send_mail"]:
        FAILURES["send_mail"] -= 1
        raise TimeoutError("the mail server did not answer")
    INBOX.append(f"{to}: {text}")
    return "sent"


def free_slot(ctx: troth.UndoContext) -> None:
    """Undo of book_slot."""
    CALENDAR.pop(ctx["slot"], None)


@troth.undoable(compensate=free_slot, name="book_slot", final=(KeyError,))
def book_slot(slot: str, who: str) -> str:
    """Book a slot of the calendar; final: it is taken."""
    if slot in CALENDAR:
        raise KeyError(f"{slot} is taken by {CALENDAR[slot]}")
    CALENDAR[slot] = who
    return f"{slot} booked"


def ask_person(request: troth.ApprovalRequest) -> bool:
    """The gate: here a rule, elsewhere a person with a button."""
    return int(request.arguments["euros"]) <= 50


@troth.undoable(compensate=lambda ctx: print(f"     refunded {ctx['euros']} €"), name="pay", approve=ask_person)
def pay(euros: int) -> str:
    """Pay."""
    return f"paid {euros} €"


TOOLS = {step.name: step for step in (send_mail, book_slot, pay)}
Call = dict[str, Any]


def scripted(*calls: Call) -> Iterator[Call]:
    """A model that says these things, one after the other."""
    yield from calls


def run_tool(call: Call) -> str:
    """One tool call; what the model reads next. The call's id is its key: said twice, it is done once."""
    try:
        return str(TOOLS[call["tool"]].keyed(call["id"])(**call["input"]))
    except troth.StepFailed as error:
        advice = "do not try this again" if error.refused else "nothing is left of it; you may try again"
        return f"error: {error.error_type}: {error.reason} ({advice})"


def agent(task: str, model: Iterator[Call]) -> None:
    """The loop. It is one global transaction: leaving it by an exception undoes what the tools did, newest first."""
    print(f"--- {task}")
    with troth.transaction(name=task):
        for call in model:
            if call["tool"] == "give_up":
                raise RuntimeError(call["input"]["reason"])
            print(f"     {call['tool']} {json.dumps(call['input'])} -> {run_tool(call)}")


def main() -> None:
    """Two tasks: one is done, one is given up and leaves nothing behind."""
    mail = {"tool": "send_mail", "input": {"to": "bob", "text": "lunch on Friday?"}}
    slot = {"tool": "book_slot", "input": {"slot": "fri-12", "who": "bob"}}
    with troth.embedded(application="agent", retry__min="50ms"):
        again = {**mail, "id": "call-2"}
        agent("invite bob", scripted({**mail, "id": "call-1"}, again, again, {**slot, "id": "call-3"}))
        print(f"inbox {INBOX}, calendar {CALENDAR}")
        try:
            agent(
                "invite cleo",
                scripted(
                    {"tool": "send_mail", "id": "call-1", "input": {"to": "cleo", "text": "lunch?"}},
                    {"tool": "book_slot", "id": "call-2", "input": {"slot": "fri-12", "who": "cleo"}},
                    {"tool": "pay", "id": "call-3", "input": {"euros": 40}},
                    {"tool": "pay", "id": "call-4", "input": {"euros": 4000}},
                    {"tool": "give_up", "input": {"reason": "no slot, and no money"}},
                ),
            )
        except RuntimeError as error:
            print(f"given up: {error}")
    print(f"inbox {INBOX}, calendar {CALENDAR}")


if __name__ == "__main__":
    main()
