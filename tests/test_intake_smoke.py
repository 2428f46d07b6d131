from tests.intake_side import *


async def test_smoke(database, tmp_path):
    async with house(database, tmp_path) as h:
        print(await h.upload(1, [debit(1), debit(2), debit(3)]))
        print(await h.upload(2, [debit(3), spoiled(debit(4)), debit(5)]))
        print(await h.put(2, binary([debit(9)])))
        print(await h.states()); print(await h.accounts())
