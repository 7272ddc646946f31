# SPDX-License-Identifier: Apache-2.0
"""DELETE executions/{id}: what runs, what waits, what is over, what ignores it."""

import pytest

from conftest import Background, unique, wait_for

BEGUN = "open('/mnt/data/begun', 'w').close()\n"
FOREVER = f"x = 41\nimport time\n{BEGUN}while True: time.sleep(0.01)"
STUBBORN = (
    f"import time\nwhile True:\n    try:\n        {BEGUN}        while True: time.sleep(0.01)\n"
    "    except BaseException: pass"
)


def cancel(session, execution_id):
    return session.call("DELETE", f"executions/{execution_id}")


def begun(session):
    wait_for(lambda: "begun" in session.names(), 20, "it has begun")


def test_synchronous_one(session):
    execution_id = unique("cancel")
    job = Background(session.post, FOREVER, headers={"operation-id": execution_id})
    begun(session)
    reply = cancel(session, execution_id).ok(204)
    assert reply.body == b"" and reply.headers["operation-id"] == execution_id
    document = job.result().ok().json
    assert document["status"] == "Canceled" and document["error"]["code"] == "ExecutionCanceled"
    assert "Execution canceled" in document["result"]["stderr"]
    assert session.execution(execution_id) == document
    # Interrupted, not killed: what it had made is there.
    assert session.value("x + 1") == 42


def test_asynchronous_one(session):
    execution_id = session.start(FOREVER)
    begun(session)
    cancel(session, execution_id).ok(204)
    assert session.finished(execution_id)["status"] == "Canceled"
    assert session.value("x + 1") == 42


def test_one_that_ignores_it(session):
    execution_id = session.start("y = 1\n" + STUBBORN)
    begun(session)
    cancel(session, execution_id).ok(204)
    document = session.finished(execution_id)
    assert document["status"] == "Canceled"
    assert "ignored the interrupt" in document["result"]["stderr"]
    assert session.fails("y")[0]["message"].startswith("NameError")


def test_one_that_waits(session):
    first = session.start(FOREVER)
    begun(session)
    waiting = session.start("open('/mnt/data/ran', 'w')")
    job = Background(session.post, "2", headers={"operation-id": "waits-too"})
    wait_for(lambda: session.call("GET", "executions/waits-too").status == 200, 20, "it waits")
    cancel(session, waiting).ok(204)
    cancel(session, "waits-too").ok(204)
    assert session.finished(waiting)["status"] == "Canceled"
    assert job.result().ok().json["status"] == "Canceled"
    # The one before them has not noticed.
    assert session.execution(first)["status"] == "Running"
    cancel(session, first).ok(204)
    assert session.value("x + 1") == 42
    assert "ran" not in session.names()


def test_one_that_is_over(session):
    document = session.run("6 * 7")
    for _ in range(2):
        cancel(session, document["id"]).ok(204)
    assert session.execution(document["id"]) == document


def test_twice(session):
    execution_id = session.start(FOREVER)
    begun(session)
    for _ in range(3):
        cancel(session, execution_id).ok(204)
    assert session.finished(execution_id)["status"] == "Canceled"
    assert session.value("x + 1") == 42


def test_old_shape_of_a_canceled_one(session):
    job = Background(
        session.call, "POST", "code/execute", {"code": FOREVER}, headers={"operation-id": "old"}
    )
    begun(session)
    cancel(session, "old").ok(204)
    assert job.result().ok().json["properties"]["status"] == "Failure"


@pytest.mark.parametrize("execution_id", ["nobody", "%2e%2e", "a" * 300, "%F0%9F%98%80"])
def test_one_that_is_not_there(session, execution_id):
    session.run("1")
    cancel(session, execution_id).error(404, "SessionExecutionNotFound")


def test_no_session_is_made(pool):
    s = pool.session()
    cancel(s, "nobody").error(404, "SessionExecutionNotFound")
    assert s.identifier not in pool.identifiers()


def test_one_of_another_session(new_session):
    a, b = new_session(), new_session()
    execution_id = a.start(FOREVER)
    begun(a)
    b.run("1")
    cancel(b, execution_id).error(404, "SessionExecutionNotFound")
    assert a.execution(execution_id)["status"] == "Running"
    cancel(a, execution_id).ok(204)


def test_storm(session):
    """Starts and cancels that overlap in every way leave a session that works."""
    ids = [session.start("import time\ntime.sleep(0.005)\nn = 1") for _ in range(60)]
    jobs = [Background(cancel, session, execution_id) for execution_id in reversed(ids)]
    for job in jobs:
        job.result().ok(204)
    for execution_id in ids:
        assert session.finished(execution_id)["status"] in ("Canceled", "Succeeded")
    assert session.value("6 * 7") == 42
