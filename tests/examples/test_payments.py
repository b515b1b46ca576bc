"""Payments: none is lost while the SMS service is dead, and none is paid twice."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from rawws.examples import payments
from tests.examples.running import Example, Run, Visit, ask, check_looks
from tests.serving.machine import PATIENCE_S


def test_payments_survive_the_killing_of_the_sms_service(run: Run, visit: Visit, axe: str, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    server = run("payments", "server", "--port", "0").wait_listening()
    page = visit(server.url)

    def start_sms() -> Example:
        return run("payments", "sms", "--port", str(server.port), "--state", str(tmp_path / "sms.state"))

    def pay(*amounts: int) -> None:
        for amount in amounts:
            assert ask(server.port, "/payments", f"amount={amount}").status_code == 201

    def pay_in_page(amount: int) -> None:
        page.get_by_label("Amount").fill(str(amount))
        page.get_by_role("button", name="Pay", exact=True).click()

    pay(1, 2)
    expect(page.locator("td.waiting")).to_have_count(2)
    sms = start_sms()
    heard = [sms.next_line() for _ in range(2)]
    pay_in_page(3)
    heard.append(sms.next_line())
    deadline = time.monotonic() + PATIENCE_S
    while not (tmp_path / "sms.state").read_text().endswith("-3") and time.monotonic() < deadline:
        time.sleep(0.001)  # the service notes the id after the SMS
    expect(page.locator("td.sent")).to_have_count(3)
    sms.kill()  # not asked to stop
    pay(4, 5)
    expect(page.locator("#waiting")).to_have_text("2")
    check_looks(page, axe)
    sms = start_sms()
    heard += [sms.next_line() for _ in range(2)]
    pay_in_page(6)
    heard.append(sms.next_line())
    assert heard == [f"SMS: 'amount={number}'" for number in range(1, 7)]
    # The same request again, as if its answer had been lost.
    page.get_by_role("button", name="Send it again").click()
    expect(page.locator("#answer")).to_contain_text("known already")
    expect(page.locator("#sent")).to_have_text("6")
    expect(page.locator("#paid")).to_have_text("6")
    expect(page.locator("#waiting")).to_have_text("0")
    by_key = [ask(server.port, "/payments", "amount=7", {"Idempotency-Key": key}) for key in ("one", "one", "two")]
    assert [answer.status_code for answer in by_key] == [201, 200, 201]
    assert by_key[0].text == by_key[1].text != by_key[2].text
    assert ask(server.port, "/payments", "amount=8", {"Origin": "https://other.example"}).status_code == 403
    expect(page.locator("#paid")).to_have_text("8")


def test_the_sms_service_requires_a_state_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["payments", "sms"])
    with pytest.raises(SystemExit, match="2"):
        payments.main()
    err = capsys.readouterr().err
    assert err.endswith("the SMS service needs --state FILE, such as --state sms.state, to resume after a kill\n")


@pytest.mark.thorough
def test_no_payment_lacks_its_sms_with_two_workers_over_kills_of_the_server(run: Run, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "payments.db"))
    server = run("payments", "server", "--port", "0", *store).wait_listening()
    port = server.port

    def pay(*amounts: int) -> None:
        for amount in amounts:
            assert ask(port, "/payments", f"amount={amount}").status_code == 201

    pay(1)
    server.kill()  # payment 1 is stored, and has no SMS yet
    server = run("payments", "server", "--port", str(port), *store).wait_listening()
    workers = [run("sms_workers", "--port", str(port)) for _ in range(2)]
    pay(2, 3, 4)
    heard: list[str] = []
    for worker in workers:
        threading.Thread(target=collect, args=(worker, heard), daemon=True).start()
    wait_for(heard, 4)
    server.kill()
    server = run("payments", "server", "--port", str(port), *store).wait_listening()
    pay(5, 6)
    wait_for(heard, 6)
    for worker in workers:
        worker.process.kill()
        worker.process.wait()
    assert set(heard) == {f"SMS: 'amount={number}'" for number in range(1, 7)}
    # At the second kill, each worker may have sent an SMS and not acknowledged it yet.
    assert len(heard) - 6 <= len(workers)


def collect(worker: Example, heard: list[str]) -> None:
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        heard.append(line.rstrip("\n"))


def wait_for(heard: list[str], count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(set(heard)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
