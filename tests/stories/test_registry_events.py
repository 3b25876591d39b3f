"""A story of telling: Debian's docker-registry notifies Berth, and what was pushed there comes without being asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.stories.test_sync import make_version, run, skopeo
from tests.support.processes import BerthProcess, needs, poll
from tests.unit.wire.registry_process import running_registry

# As its documentation has it, impatient enough for a test.
NOTIFICATIONS = """
notifications:
  endpoints:
    - name: berth
      url: {address}
      headers:
        Authorization: ["{authorization}"]
      timeout: 5s
      threshold: 3
      backoff: 100ms
"""


def test_what_is_pushed_to_a_docker_registry_arrives_by_its_own_word(berth: BerthProcess, tmp_path: Path) -> None:
    needs("docker-registry")
    run(berth, "berth", "project", "create", "told", "--policy", "open")
    run(berth, "berth", "registry", "add", "teller", "--kind", "distribution", "--url", "http://127.0.0.1:9")
    hook = run(berth, "berth", "registry", "hook", "teller")
    assert hook["address"] == f"{berth.url}/hooks/teller"
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry", NOTIFICATIONS.format(**hook)) as url:
        run(berth, "berth", "registry", "set", "teller", "--url", url)
        rule = ("--source", "teller", "--target", "depot", "--project", "told", "--on-event")
        run(berth, "berth", "sync", "rule", "add", "by-word", *rule)
        digest, _ = make_version(tmp_path / "layout", "1.0.0")
        host = url.removeprefix("http://")
        where = f"docker://{host}/told/net:1.0.0"
        skopeo("copy", "--quiet", "--dest-tls-verify=false", f"oci:{tmp_path / 'layout'}:1.0.0", where)

        def here() -> Any:
            answer = httpx.get(
                f"{berth.url}/api/v1/projects/told/models/net/versions/1.0.0",
                headers={"Authorization": f"Bearer {berth.admin_token}"},
            )
            return answer.status_code == 200 and answer.json()

        assert poll(here, what="1.0.0 is in the depot")["digest"] == digest

        def told(action: str) -> Any:
            found = run(berth, "berth", "registry", "events", "teller")
            return [e for e in found if e["action"] == action and e["state"] == "done"]

        [pushed] = poll(lambda: told("pushed"), what="the push is settled")
        assert (pushed["repository"], pushed["tag"], pushed["digest"]) == ("told/net", "1.0.0", digest)
        assert pushed["outcome"].endswith("of by-word.")
        # Our own copying reads there, and is told of too.
        assert {e["digest"] for e in poll(lambda: told("pulled"), what="the pull is counted")} == {digest}
        gone = httpx.delete(f"{url}/v2/told/net/manifests/{digest}")
        assert gone.status_code == 202
        # Distribution 2.8 tells of the content and of the tag that went with it.
        deleted = poll(lambda: told("deleted"), what="the deletion is settled")
        assert digest in {e["digest"] for e in deleted}
        assert {e["outcome"] for e in deleted} == {"Nothing of ours was published there."}
        refused = httpx.post(hook["address"], json={"events": []}, headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401
