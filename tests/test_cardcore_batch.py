"""A batch is checked whole before its first card; and the city card's script, step by step."""

from dataclasses import replace
from datetime import date

import pytest

from cardcore.batch import check_batch
from cardcore.card_files import CardId, DirectoryEntry, Holder, MetroRecord, MinistryData, TransferRecord
from cardcore.card_map import CITY_CARD
from cardcore.commands import AppendRecord, CreateDf, UpdateBinary
from cardcore.errors import FormatError, ProfileError
from cardcore.order import CardOrder
from cardcore.profile import load_profile
from cardcore.record import Suite
from cardcore.script import Secured, Step, WriteKeyAct, steps
from cardcore.selection import read_common
from cardcore.step import Plain

SHARED, CITY = load_profile("shared-purse"), load_profile("construction-ministry")


def order(place: int = 0, **changes: object) -> CardOrder:
    plain = CardOrder(
        issuer=bytes.fromhex("02317910"),
        card=bytes.fromhex(f"0310{place:016}"),
        suite=Suite.SM4,
        concession=1,
        starts=date(2026, 3, 1),
        expires=date(2036, 2, 29),
    )
    return replace(plain, **changes)


def city_order(**changes: object) -> CardOrder:
    serial = bytes.fromhex("0000" + "71000102" + "00012345")
    city: dict[str, object] = {"issuer": bytes.fromhex("02717100"), "card": serial, "city": "7100", "concession": 2}
    return order(**city | changes)


def test_a_good_batch_is_counted() -> None:
    assert check_batch(SHARED, (order(place) for place in range(3))) == 3
    assert check_batch(SHARED, [order(holder=Holder("王小明", "610102199001011234"))]) == 1
    assert check_batch(CITY, [city_order()]) == 1


def test_every_fault_is_named_before_the_first_card() -> None:
    long_name = Holder("王" * 11, "610102199001011234")
    batch = [order(1), order(2, holder=long_name), order(3), order(1), order(4, suite=Suite.TRIPLE_DES)]
    only_sm4 = replace(SHARED, suites=(Suite.SM4,))
    with pytest.raises(FormatError) as caught:
        check_batch(only_sm4, batch)
    text = str(caught.value)
    assert text.startswith(
        "3 of 5 orders cannot be made, so no card was: order 2 (card 03100000000000000002) cannot be"
    )
    assert "order 4 (card 03100000000000000001) has the serial of order 1" in text
    assert "order 5" in text and "another suite" in text and "order 3" not in text


def test_a_holder_needs_a_file_and_a_batch_an_order() -> None:
    nameless = replace(SHARED, applications=SHARED.applications[:1])
    assert check_batch(nameless, [order()]) == 1
    with pytest.raises(FormatError, match="no file for one"):
        check_batch(nameless, [order(holder=Holder("王小明", "610102199001011234"))])
    with pytest.raises(FormatError, match="no orders"):
        check_batch(SHARED, [])
    many = [order(9) for _ in range(9)]
    with pytest.raises(FormatError, match=r"8 of 9 .* and 3 more"):
        check_batch(SHARED, many)


def test_orders_of_another_scheme_are_refused() -> None:
    for wrong in (order(), city_order(issuer=bytes.fromhex("02717910"))):
        with pytest.raises(FormatError, match="no city card"):
            steps(CITY, wrong)


def test_records_must_fit_their_file() -> None:
    application = CITY.application(6)
    spec = application.file(0x1A)
    assert spec is not None
    for small in (replace(spec, count=1), replace(spec, length=47)):
        with pytest.raises(ProfileError, match="001A of application 6"):
            city_order().contents(CITY, application, small)


def written(script: tuple[Step, ...], name: str) -> bytes:
    act = next(step.act for step in script if step.id == name)
    assert isinstance(act, Plain | Secured) and isinstance(act.command, AppendRecord | UpdateBinary)
    return act.command.content


@pytest.mark.parametrize("suite", Suite)
def test_the_script_of_a_city_card(suite: Suite) -> None:
    wanted = city_order(suite=suite)
    script = steps(CITY, wanted)
    assert len({step.id for step in script}) == len(script)
    created = [
        step.act.command for step in script if isinstance(step.act, Plain) and isinstance(step.act.command, CreateDf)
    ]
    assert [item.df_name for item in created] == [CITY_CARD.aid]
    common = read_common(6, written(script, "identity.6.0015.1"))
    assert isinstance(common, MinistryData)
    assert (common.issuer, common.card, common.sub_type) == (wanted.issuer, wanted.card, 2)
    card_id = CardId.decode(written(script, "data.0.0005.1"))
    assert (card_id.city, card_id.serial) == ("7100", wanted.card[2:])
    assert MetroRecord.decode(written(script, "data.6.001A.1")) == MetroRecord()
    assert TransferRecord.decode(written(script, "data.6.001A.2")) == TransferRecord()
    assert DirectoryEntry.decode(written(script, "data.0.0001.1")) == DirectoryEntry(CITY_CARD.aid, "CITYCARD", 6)
    scopes = {step.act.key.application for step in script if isinstance(step.act, WriteKeyAct)}
    assert scopes == {0, 6}, "its own roots: no key of the province's applications"
