"""The mutants: the product with one line made wrong, and what that breaks. `tests.mutants` shows who catches each."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("cardcore", "keys", "readers", "clearing")


@dataclass(frozen=True, slots=True)
class Mutant:
    """`original` stands exactly once in `file` (from the root of the repository), and `mutated` goes in its place.

    `halts`: words of the refusal with which the product itself goes no further, so that there are no books to audit.
    """

    name: str
    breaks: str
    file: str
    original: str
    mutated: str
    halts: str = ""

    def apply(self, root: Path) -> None:
        """Mutate the copy of the product below `root`; raises ValueError where the original does not stand once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if (found := text.count(self.original)) != 1:
            raise ValueError(f"mutant {self.name}: its original stands {found} times in {self.file}, not once")
        path.write_text(text.replace(self.original, self.mutated), encoding="utf-8")


MUTANTS = (
    # -- proof
    Mutant(
        "tac-byte-order",
        "the four bytes of a debit's TAC are compared in the wrong order (rule 1)",
        "keys/engine/bulk.py",
        "good = number(macs) << np.uint64(32) ==",
        "good = number(macs if is_load else macs[:, ::-1].copy()) << np.uint64(32) ==",
    ),
    Mutant(
        "tac-of-loads-over-other-bytes",
        "the TAC of a load is computed with the amount before the counter (docs/record.md)",
        "keys/engine/bulk.py",
        'for name in ("counter", "amount_fen", "transaction_type", "terminal_number", "date", "time")',
        'for name in ("amount_fen", "counter", "transaction_type", "terminal_number", "date", "time")',
        "The value of the card is not certain: load-in-doubt",
    ),
    Mutant(
        "tac-not-checked",
        "a record with a wrong cryptogram is accepted and posted (rules 1, 10)",
        "clearing/verdict/table.py",
        "Verdict.BAD_PROOF: ~proofs.good,",
        "Verdict.BAD_PROOF: ~proofs.good & False,",
    ),
    Mutant(
        "seal-not-checked",
        "every record counts as sealed (rule 2)",
        "keys/verifiers.py",
        "sealed |= bulk.seals_hold(rows, root)",
        "sealed |= bulk.seals_hold(rows, root) | True",
    ),
    Mutant(
        "unsealed-claims-believed",
        "counters and balances of unsealed records are used (rule 2)",
        "clearing/store/close.py",
        "batch_id, sealed, sealed AND ",
        "batch_id, sealed, true AND ",
    ),
    Mutant(
        "act-payers-unsorted",
        "the digest that the card authenticates names the payers of an act in the order of the request (rule 6)",
        "cardcore/cryptogram.py",
        'for payer in sorted(split)).encode("ascii")',
        'for payer in split).encode("ascii")',
    ),
    Mutant(
        "mac2-over-other-bytes",
        "MAC2 of a load covers the time before the date (JR/T 0025)",
        "cardcore/cryptogram.py",
        "_u(transaction_type, 1) + terminal_number + date + time",
        "_u(transaction_type, 1) + terminal_number + time + date",
        "ended as Refused",
    ),
    Mutant(
        "act-over-other-digest",
        "a card at the counter authenticates something else than the desk opened (rule 6)",
        "readers/pcsc/purse.py",
        "InternalAuthenticate(index, grant.digest)",
        "InternalAuthenticate(index, grant.digest[::-1])",
    ),
    Mutant(
        "silence-taken-for-refusal",
        "a load whose card fell silent counts as refused (decision D5)",
        "cardcore/purse.py",
        "if reply is None:\n        return Unknown(evidence)",
        'if reply is None:\n        return Refused(evidence, "silence")',
        "which nobody can know",
    ),
    # -- once only
    Mutant(
        "duplicates-not-found",
        "a record that is sent again under another batch number is not known again (rule 3)",
        "clearing/intake/settle.py",
        "findings[Verdict.DUPLICATE] = duplicate\n",
        "findings[Verdict.DUPLICATE] = duplicate & False\n",
    ),
    Mutant(
        "batch-posted-twice",
        "a batch that is sent again under another number is posted again (rules 3, 10)",
        "clearing/intake/settle.py",
        "    proven = verdict > Verdict.CONFLICT\n    strands",
        "    proven = (verdict > Verdict.CONFLICT) | (verdict == Verdict.DUPLICATE)\n    strands",
    ),
    Mutant(
        "conflict-posted",
        "a replay with other claims is posted once more (rule 3)",
        "clearing/intake/settle.py",
        "    proven = verdict > Verdict.CONFLICT\n    strands",
        "    proven = verdict >= Verdict.CONFLICT\n    strands",
    ),
    Mutant(
        "batch-number-reused",
        "another body under a used batch number gets the answer of the first (docs/wire.md)",
        "clearing/intake/intake.py",
        "if digest == upload.batch.digest:",
        "if digest:",
    ),
    Mutant(
        "sequence-range-too-long",
        "the sequence after every run is taken for seen, so that a lost one is not missed (rule 3)",
        "clearing/store/intake.py",
        "range_agg(int8range(first, last, '[]'))",
        "range_agg(int8range(first, last + 1, '[]'))",
    ),
    Mutant(
        "acknowledged-too-far",
        "a terminal is told to erase the first record that is missing (docs/wire.md)",
        "clearing/intake/answer.py",
        "            ack_seq = last\n",
        "            ack_seq = last + 1\n",
    ),
    # -- intake's postings
    Mutant(
        "posting-lost",
        "the first strand of every transaction is not posted (rule 10)",
        "clearing/ledger/postings.py",
        "    for strand in strands:\n",
        "    for strand in list(strands)[1:]:\n",
    ),
    Mutant(
        "suspense-paid-out",
        "suspended debits are owed to the operator (rule 10)",
        "clearing/ledger/postings.py",
        "'suspense' if suspended else 'payable'",
        "'payable' if suspended else 'payable'",
    ),
    Mutant(
        "foreign-posted-as-own",
        "a foreign card's debit falls off our float and is paid at once (rule 9)",
        "clearing/intake/settle.py",
        'legs = foreign_legs(sector, records["issuer"][at].tobytes(), operator)',
        'legs = debit_legs(int(records["purse"][at]), sector, operator, suspended=False)',
    ),
    Mutant(
        "act-split-ignored",
        "the first payer pays the whole act (rule 6)",
        "clearing/intake/settle.py",
        "for payer, fen in sorted(act.split.items())]",
        "for payer, fen in [(min(act.split), amount)]]",
    ),
    Mutant(
        "late-posted-to-origin-date",
        "a late record changes a closed date (rule 13)",
        "clearing/intake/settle.py",
        "post_date = np.maximum(bearings.origin, np.int32(days_of(evidence.open_date)))",
        "post_date = bearings.origin",
        "had no answer for",
    ),
    Mutant(
        "business-date-by-midnight",
        "the cut-off is not taken off (decision D1)",
        "clearing/registry/dates.py",
        "shifted = instants[chosen] - cut_off.at_us",
        "shifted = instants[chosen]",
    ),
    Mutant(
        "clock-not-checked",
        "a record from tomorrow is accepted (rule 10)",
        "clearing/intake/group.py",
        "return tolerance.ahead_s * 1_000_000 if tolerance else 0",
        "return tolerance.ahead_s * 1_000_000_000 if tolerance else 0",
    ),
    Mutant(
        "replaced-card-pays",
        "a late tap of a replaced card is accepted, though its value has moved (rule 18)",
        "clearing/verdict/table.py",
        "registry.replaced.reached(bearings.card, received)",
        "registry.replaced.reached(bearings.card, bearings.instant)",
    ),
    # -- the close
    Mutant(
        "balance-before-for-after",
        "a step begins with the balance before its lower record (rule 12)",
        "clearing/close/purses.py",
        'row["counter"], row["before_fen"], row["left_fen"],',
        'row["counter"], row["before_fen"], row["before_fen"],',
        "The card is reported, frozen or replaced",
    ),
    Mutant(
        "gap-sides-swapped",
        "a gap goes from unsettled value to float (rule 12)",
        "clearing/close/command.py",
        "(accounts.float_account(step.purse), 1), (accounts.unsettled(step.purse), -1)",
        "(accounts.float_account(step.purse), -1), (accounts.unsettled(step.purse), 1)",
    ),
    Mutant(
        "gap-not-released",
        "a gap stays booked when a late record fills it (rule 12)",
        "clearing/store/close.py",
        "SELECT rule, version, subject, proof_key, ledger, account, origin_date, -amount_fen FROM carried)",
        "SELECT rule, version, subject, proof_key, ledger, account, origin_date, -amount_fen FROM carried\n"
        "          WHERE rule <> 'gap' OR subject IN (SELECT subject FROM target))",
    ),
    Mutant(
        "fork-not-seen",
        "two proven records under one counter are not a fork (rule 4)",
        "clearing/store/close.py",
        "counted AND count(*) OVER same > 1 AS forked",
        "counted AND count(*) OVER same > 2 AS forked",
    ),
    Mutant(
        "fork-float-of-the-wrong-member",
        "the float falls by the largest member of a fork (rule 4)",
        "clearing/store/close.py",
        "same ORDER BY moment, terminal_number, terminal_transaction) AS place",
        "same ORDER BY moment DESC, terminal_number, terminal_transaction) AS place",
    ),
    Mutant(
        "load-in-doubt-the-wrong-way",
        "a load that got through is reversed, and one that did not is posted (rule 17)",
        "clearing/close/gaps.py",
        "tuple(sorted(committed)), tuple(sorted(void)), tail_fen)",
        "tuple(sorted(void)), tuple(sorted(committed)), tail_fen)",
    ),
    Mutant(
        "loads-placed-by-clocks",
        "a load lies where clocks put it, whatever balance it found (rule 12)",
        "clearing/close/placement.py",
        "return int(not holds(interval, loads, fixed)), distance",
        "return 0, distance",
        "The card is reported, frozen or replaced",
    ),
    Mutant(
        "replaced-value-stays",
        "the value of a replaced card stays on the float of the old one (rule 18)",
        "clearing/close/command.py",
        "        if origin <= day:\n            subject",
        "        if origin < date.min:\n            subject",
    ),
    Mutant(
        "denylist-bearer-swapped",
        "the issuer bears what the acquirer has to, and the other way round (rule 19)",
        "clearing/store/cases.py",
        "THEN 'acquirer' ELSE 'issuer' END AS name",
        "THEN 'issuer' ELSE 'acquirer' END AS name",
    ),
    Mutant(
        "missing-exit-not-opened",
        "an entry that is followed by an entry is no case (docs/ledger.md)",
        "clearing/store/cases.py",
        "next.flags & 4 = 0) IS NOT TRUE",
        "next.flags & 4 = 0) IS NULL",
    ),
    Mutant(
        "missing-entry-turned-round",
        "an exit is a case when its entry is known, and none when it is not (docs/ledger.md)",
        "clearing/store/cases.py",
        "k.entry_at IN (0, before.at)) IS NOT TRUE",
        "k.entry_at IN (0, before.at)) IS TRUE",
    ),
    Mutant(
        "total-compared-by-count",
        "an operator's declared fen are not compared (docs/ledger.md)",
        "clearing/store/cases.py",
        "AND (coalesce(r.fen, 0), coalesce(r.count, 0)) <> (t.fen,",
        "AND (t.fen, coalesce(r.count, 0)) <> (t.fen,",
    ),
    Mutant(
        "torn-not-voided",
        "a torn debit that never happened stays an open case (docs/ledger.md)",
        "clearing/store/cases.py",
        "CASE WHEN same THEN 'void' END",
        "CASE WHEN NOT same THEN 'void' END",
    ),
    # -- prices, fees, nets
    Mutant(
        "concession-not-checked",
        "a declared concession class is not held against the registry (rule 2)",
        "clearing/store/cases.py",
        "FROM ride r WHERE r.concession <> r.class",
        "FROM ride r WHERE r.concession = 0",
    ),
    Mutant(
        "concession-not-rated",
        "every class owes the full fare (rule 15)",
        "clearing/rating/transit.py",
        "percent = concession.number(str(ride.concession))",
        "percent = max(FULL_PERCENT, concession.number(str(ride.concession)))",
    ),
    Mutant(
        "fare-rounded-up",
        "half a fen of a charged fare goes against the holder (rule 16)",
        "clearing/rating/transit.py",
        "self.full_fen * self.percent // FULL_PERCENT",
        "-(-self.full_fen * self.percent // FULL_PERCENT)",
    ),
    Mutant(
        "subsidy-one-fen-short",
        "the treasury pays a fen less for each concession (rule 16)",
        "clearing/store/close.py",
        "leg.sign * (r.full_fare_fen - r.amount_fen)",
        "leg.sign * (r.full_fare_fen - r.amount_fen - 1)",
    ),
    Mutant(
        "fee-half-down",
        "half a fen of a fee is rounded down (rule 16)",
        "clearing/close/fees.py",
        "(base_fen * bps * 2 + _TEN_THOUSAND) // (2 * _TEN_THOUSAND)",
        "(base_fen * bps * 2 + _TEN_THOUSAND - 1) // (2 * _TEN_THOUSAND)",
    ),
    Mutant(
        "fee-rounded-down",
        "every fee loses its fraction (rule 16)",
        "clearing/close/fees.py",
        "(base_fen * bps * 2 + _TEN_THOUSAND) // (2 * _TEN_THOUSAND)",
        "base_fen * bps // _TEN_THOUSAND",
    ),
    Mutant(
        "classes-net-with-each-other",
        "subsidies and insurance money net with stored value (rule 11)",
        "clearing/settlement/netting.py",
        "positions[movement.class_, party_of(movement.account)]",
        'positions["stored value", party_of(movement.account)]',
    ),
    Mutant(
        "statement-hides-late",
        "a statement does not show what came late (rule 13)",
        "clearing/settlement/statements.py",
        "if movement.origin_date < day and movement.credit_fen:",
        "if movement.origin_date > day and movement.credit_fen:",
    ),
)
