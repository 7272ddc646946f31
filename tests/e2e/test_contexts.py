# SPDX-License-Identifier: Apache-2.0
"""Several kernels of one session: names, languages, state of their own, queues of their own."""

import pytest

from conftest import Background, unique, wait_for

WAIT_FOR_GO = "import os, time\nwhile not os.path.exists('/mnt/data/go'): time.sleep(0.01)\n"


def contexts(session):
    return {c["name"]: c for c in session.call("GET", "contexts").ok().json["value"]}


def put(session, name, language=None, **kw):
    return session.call("PUT", f"contexts/{name}", {"language": language} if language else None, **kw)


def test_every_session_has_default(session):
    reply = session.call("GET", "contexts").ok()
    (only,) = reply.json["value"]
    assert set(only) == {"name", "language", "state", "queueLength", "executions"}
    assert only["name"] == "default" and only["language"] == "python"
    assert reply.headers["x-ms-session-guid"]
    session.run("1")
    after = contexts(session)["default"]
    assert after["state"] == "idle" and after["executions"] == 1 and after["queueLength"] == 0


def test_made_once(session):
    made = put(session, "second", "python").ok(201).json
    assert (made["name"], made["language"]) == ("second", "python")
    put(session, "second", "python").ok(200)
    put(session, "second").ok(200)
    put(session, "default").ok(200)
    assert list(contexts(session)) == ["default", "second"]


def test_without_a_language_it_has_that_of_the_pool(session):
    assert put(session, "third").ok(201).json["language"] == "python"


def test_state_is_each_ones_own(session):
    session.run("x = 'default'")
    session.run("x = 'other'", context="other")
    assert session.value("x") == session.value("x", context="default") == "default"
    assert session.value("x", context="other") == "other"
    assert session.fails("x", context="third")[0]["message"].startswith("NameError")
    assert list(contexts(session)) == ["default", "other", "third"]


def test_files_are_shared(session):
    session.run("open('/mnt/data/f', 'w').write('both')")
    assert session.value("open('/mnt/data/f').read()", context="other") == "both"


def test_languages(session):
    session.run("x = 1")
    document = session.post("x=2; echo $x", language="bash").ok().json
    assert document["result"]["stdout"] == "2\n"
    assert session.value("x", language="py") == 1
    found = contexts(session)
    assert found["shell"]["language"] == "shell" and found["default"]["executions"] == 2
    # The same one, by its name.
    assert session.post("echo $x", context="shell").ok().json["result"]["stdout"] == "2\n"


def test_side_by_side(session):
    job = session.background(WAIT_FOR_GO, context="slow")
    found = contexts(session)
    assert found["slow"]["state"] == "busy"
    assert session.value("6 * 7") == 42
    session.upload(("go", b"")).ok()
    assert job.result().ok().json["status"] == "Succeeded"


def test_one_at_a_time_in_each(session):
    job = session.background(WAIT_FOR_GO, context="queue")
    ids = [session.start(f"open('/mnt/data/order', 'a').write('{n}')", context="queue") for n in range(5)]
    assert contexts(session)["queue"]["queueLength"] == 5
    assert session.execution(ids[0])["status"] == "NotStarted"
    session.upload(("go", b"")).ok()
    job.result().ok()
    for execution_id in ids:
        assert session.finished(execution_id)["status"] == "Succeeded"
    assert session.download("order").ok().text == "01234"


def test_delete(session):
    session.run("x = 1", context="gone")
    session.call("DELETE", "contexts/gone").ok(204)
    assert "gone" not in contexts(session)
    session.call("DELETE", "contexts/gone").error(404, "SessionContextNotFound")
    # The next one of that name is another one.
    assert session.fails("x", context="gone")[0]["message"].startswith("NameError")


def test_delete_ends_what_runs_and_what_waits(session):
    running = session.background("print('begun', flush=True)\n" + WAIT_FOR_GO, context="gone")
    waiting = session.start("1", context="gone")
    session.call("DELETE", "contexts/gone").ok(204)
    assert running.result().ok().json["status"] == "Canceled"
    assert session.finished(waiting)["status"] == "Canceled"
    assert session.value("6 * 7") == 42


def test_default_cannot_be_deleted(session):
    session.run("x = 1")
    error = session.call("DELETE", "contexts/default").error(409, "Conflict")
    assert "restart" in error["message"].lower()
    assert session.value("x") == 1


@pytest.mark.parametrize("name", ["default", "other"])
def test_restart(session, name):
    session.run("x = 1", context=name)
    reply = session.call("POST", f"contexts/{name}/restart").ok()
    assert reply.json["name"] == name and reply.json["language"] == "python"
    assert session.fails("x", context=name)[0]["message"].startswith("NameError")


def test_restart_ends_what_runs_and_not_what_waits(session):
    running = session.background(WAIT_FOR_GO)
    waiting = session.start("6 * 7")
    session.call("POST", "contexts/default/restart").ok()
    assert running.result().ok().json["status"] == "Canceled"
    document = session.finished(waiting)
    assert document["status"] == "Succeeded" and document["result"]["executionResult"] == 42


def test_restart_leaves_the_others_alone(session):
    session.run("x = 1", context="other")
    session.call("POST", "contexts/default/restart").ok()
    assert session.value("x", context="other") == 1


def test_kernel_that_dies_takes_nobody_along(session):
    session.run("x = 1", context="other")
    error, _ = session.fails("import os\nos.kill(os.getpid(), 9)")
    assert error["code"] == "KernelDied"
    assert session.value("x", context="other") == 1
    assert session.value("6 * 7") == 42


def test_identifiers_do_not_share_contexts(new_session):
    a, b = new_session(), new_session()
    a.run("1", context="mine")
    assert "mine" not in contexts(b)
    b.call("DELETE", "contexts/mine").error(404, "SessionContextNotFound")


# --- what is refused ---


@pytest.mark.parametrize("name", ["a" * 64, "A-b_c.9", "0"])
def test_names_that_are_good(session, name):
    assert put(session, name).ok(201).json["name"] == name
    assert session.value("6 * 7", context=name) == 42


@pytest.mark.parametrize("name", ["a" * 65, "a b", "ü", "a/b", "", "a\nb", "a%b", "*"])
def test_names_that_are_bad(session, name):
    error = session.post("1", context=name).error(400, "SessionRequestValidationFailed")
    assert "64" in error["message"] and "context" in error["message"]


@pytest.mark.parametrize("name", ["a" * 65, "a%20b", "%C3%BC", "a%2Fb", "a%25b"])
@pytest.mark.parametrize("method, tail", [("PUT", ""), ("DELETE", ""), ("POST", "/restart")])
def test_paths_with_bad_names(session, name, method, tail):
    session.call(method, f"contexts/{name}{tail}").error(400, "SessionRequestValidationFailed")


@pytest.mark.parametrize("value", [1, True, [], {}])
def test_types_that_are_wrong(session, value):
    for name in ("context", "language"):
        error = session.post("1", **{name: value}).error(400, "SessionRequestValidationFailed")
        assert name in error["message"]
    session.call("PUT", "contexts/x", {"language": value}).error(400, "SessionRequestValidationFailed")


def test_unknown_language_names_those_there_are(pool):
    s = pool.session()
    for reply in (s.post("1", language="cobol"), put(s, "x", "cobol")):
        error = reply.error(400, "SessionRequestValidationFailed")
        assert "cobol" in error["message"] and "python, shell" in error["message"]
    assert s.identifier not in pool.identifiers()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"language":"python"} x', b'{"a":1,"a":2}'])
def test_put_with_a_bad_body(session, body):
    session.call("PUT", "contexts/x", body).error(400, "InvalidRequestContent")


def test_language_of_another_context(session):
    put(session, "mine", "python").ok(201)
    put(session, "mine", "shell").error(409, "Conflict")
    error = session.post("1", context="mine", language="shell").error(409, "Conflict")
    assert "python" in error["message"]
    assert session.value("6 * 7", context="mine", language="python") == 42


def test_as_many_as_there_may_be(session):
    count = 1
    while (reply := put(session, f"c{count}")).status == 201:
        count += 1
    error = reply.error(400, "QuotaExceeded")
    assert str(count) in error["message"]
    session.post("1", context=unique("one-more")).error(400, "QuotaExceeded")
    # Those that there are serve on, and a place that is left is free.
    assert session.value("6 * 7", context=f"c{count - 1}") == 42
    session.call("DELETE", "contexts/c1").ok(204)
    wait_for(lambda: put(session, "again").status in (200, 201), 10, "a place")


def test_nothing_of_a_session_that_is_not_there(pool):
    s = pool.session()
    s.call("DELETE", "contexts/x").error(404, "SessionContextNotFound")
    s.call("POST", "contexts/x/restart").error(404, "SessionContextNotFound")
    assert s.identifier not in pool.identifiers()


def test_restart_of_one_that_is_not_there(session):
    session.run("1")
    session.call("POST", "contexts/x/restart").error(404, "SessionContextNotFound")


def test_identifier_is_needed(pool):
    for method, where in (("GET", "contexts"), ("PUT", "contexts/x"), ("DELETE", "contexts/x")):
        pool.client.request(method, f"{pool.path}/{where}").error(400, "SessionRequestValidationFailed")


def test_methods(session):
    assert session.call("POST", "contexts").status == 405
    assert session.call("GET", "contexts/x").status == 405
    assert session.call("GET", "contexts/x/restart").status == 405


def test_memory_limit_is_of_the_whole_session(session):
    """An execution with maxMemory runs when the session does nothing else."""
    job = session.background(WAIT_FOR_GO, context="other")
    alone = Background(session.post, "6 * 7", maxMemory="512Mi")
    wait_for(lambda: contexts(session)["default"]["queueLength"] == 1, 20, "it waits")
    assert not alone.done()
    session.upload(("go", b"")).ok()
    job.result().ok()
    assert alone.result().ok().json["result"]["executionResult"] == 42
