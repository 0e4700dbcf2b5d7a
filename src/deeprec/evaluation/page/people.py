"""Users up close: what they had, what they took, what each system said."""

from html import escape

from deeprec.evaluation.page.piece import Content

MOST = 20  # items shown of what a user took


def examples(report: Content) -> str:
    cards = []
    for number, user in enumerate(report["examples"], start=1):
        hits = ", ".join(
            f"{escape(name)} {sum(item['hit'] for item in items)} of {len(items)}"
            for name, items in user["lists"].items()
        )
        lists = "".join(
            f"<div><h4>{escape(name)}</h4><ol>{''.join(map(_recommended, items))}</ol></div>"
            for name, items in user["lists"].items()
        )
        taken = "".join(f"<li>{_called(item)}{_had(item)}</li>" for item in user["taken"][:MOST])
        if (more := len(user["taken"]) - MOST) > 0:
            taken += f"<li>and {more:,} more</li>"
        history = "".join(f"<li>{_called(item)}{_times(item)}</li>" for item in user["history"])
        asked_for = user.get("asked_for", False)
        opened = " open" if number == 1 or asked_for else ""
        who = f"User {number}{', asked for' if asked_for else ''}"
        cards.append(
            f'<details class="user"{opened}><summary>{who}: {user["events"]:,} events '
            "before, "
            f'{user["num_taken"]:,} items taken; found by {hits}</summary><div class="columns">'
            f"<div><h4>had lately, latest first</h4><ul>{history or '<li>nothing</li>'}</ul></div>"
            f"<div><h4>took then</h4><ul>{taken}</ul></div>{lists}</div></details>"
        )
    named = any(user.get("asked_for") for user in report["examples"])
    first = "First those of users_up_close, in its order; then drawn" if named else "Drawn"
    note = (
        f"{first} from the judged users, numbered and not named. ✓ and bold: taken indeed. "
        "↺: had before."
    )
    return f'<p class="soft">{note}</p>' + "".join(cards) if cards else ""


def _recommended(item: Content) -> str:
    kind = ' class="hit"' if item["hit"] else ""
    return f"<li{kind}>{_called(item)}{_had(item)}</li>"


def _called(item: Content) -> str:
    return escape(item["name"] or item["item"])


def _times(item: Content) -> str:
    return f" × {item['times']}" if item["times"] > 1 else ""


def _had(item: Content) -> str:
    return ' <span title="had before">↺</span>' if item["had"] else ""
