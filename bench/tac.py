"""How fast TACs are verified: 131,072 debits of zipf-distributed cards, both suites, CPU time of one core.

Peers, in the same run and interleaved: `cryptography` used record by record, and (where a C compiler and OpenSSL's
headers are) a plain C loop over OpenSSL. The limit is OpenSSL enciphering as many blocks in one call under one key:
what a design that gives every record its own key could reach if keys cost nothing. `python -m bench.tac` prints,
`run()` returns the figures.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import SM4

from cardcore.record import Kind, Suite
from keys.columns import RECORD_DTYPE, octets
from keys.engine.root import RootKey
from keys.purposes import SUITE_LABELS, KeyId, KeyPurpose
from keys.verifiers import TacVerifier, Verdict

RECORDS = 131_072
CARDS = 200_000
PEER_RECORDS = 4_096
ISSUER = bytes.fromhex("02317910")
ROOT = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
FLOORS = {"cryptography per record": 16.0, "C loop over OpenSSL": 0.95}

C_SOURCE = r"""
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/des.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* input: 16 bytes issuer key, then per record 8 bytes card factor, 22 bytes message, 4 bytes TAC */
static int des(const unsigned char *mk, const unsigned char *r) {
    static DES_key_schedule a, b; static int ready = 0;
    if (!ready) {
        DES_set_key_unchecked((const_DES_cblock *)mk, &a); DES_set_key_unchecked((const_DES_cblock *)(mk + 8), &b);
        ready = 1;
    }
    DES_cblock f, g, l, h, k, iv = {0}; DES_key_schedule s; unsigned char m[24], o[24];
    for (int i = 0; i < 8; i++) { f[i] = r[i]; g[i] = ~r[i]; }
    DES_ecb3_encrypt(&f, &l, &a, &b, &a, DES_ENCRYPT);
    DES_ecb3_encrypt(&g, &h, &a, &b, &a, DES_ENCRYPT);
    for (int i = 0; i < 8; i++) k[i] = l[i] ^ h[i];
    DES_set_key_unchecked(&k, &s);
    memcpy(m, r + 8, 22); m[22] = 0x80; m[23] = 0;
    DES_ncbc_encrypt(m, o, 24, &s, &iv, DES_ENCRYPT);
    return memcmp(o + 16, r + 30, 4) == 0;
}

static int sm4(const unsigned char *mk, const unsigned char *r) {
    static EVP_CIPHER_CTX *d = NULL, *c = NULL; int n; unsigned char f[16], k[16], iv[16] = {0}, m[32] = {0}, o[32];
    if (!d) {
        d = EVP_CIPHER_CTX_new(); c = EVP_CIPHER_CTX_new();
        EVP_EncryptInit_ex(d, EVP_sm4_ecb(), NULL, mk, NULL); EVP_CIPHER_CTX_set_padding(d, 0);
        EVP_EncryptInit_ex(c, EVP_sm4_cbc(), NULL, mk, iv);
    }
    for (int i = 0; i < 8; i++) { f[i] = r[i]; f[i + 8] = ~r[i]; }
    EVP_EncryptUpdate(d, k, &n, f, 16);
    EVP_EncryptInit_ex(c, NULL, NULL, k, iv); EVP_CIPHER_CTX_set_padding(c, 0);
    memcpy(m, r + 8, 22); m[22] = 0x80;
    EVP_EncryptUpdate(c, o, &n, m, 32);
    return memcmp(o + 16, r + 30, 4) == 0;
}

int main(int argc, char **argv) {
    FILE *in = fopen(argv[2], "rb"); fseek(in, 0, SEEK_END); long size = ftell(in); rewind(in);
    unsigned char *all = malloc(size); if (fread(all, 1, size, in) != (size_t)size) return 2;
    long n = (size - 16) / 34, good = 0;
    int (*one)(const unsigned char *, const unsigned char *) = argv[1][0] == '3' ? des : sm4;
    one(all, all + 16);
    clock_t start = clock();
    for (long i = 0; i < n; i++) good += one(all, all + 16 + 34 * i);
    printf("%ld %.9f\n", good, (double)(clock() - start) / CLOCKS_PER_SEC);
    return 0;
}
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One suite's records, with right TACs, and what peers need besides."""

    suite: Suite
    records: np.ndarray[Any, Any]
    verifier: TacVerifier
    issuer_key: bytes
    packed: bytes


def run(rounds: int = 9) -> list[dict[str, Any]]:
    """One entry per suite: `ours`, peers and limit in records per CPU second (medians of interleaved rounds); ratios
    ours ÷ peer, each the median of the rounds' own, so that a neighbour who comes or goes weighs on both."""
    with tempfile.TemporaryDirectory() as folder, _one_core():
        loop = _compiled(Path(folder))
        return [_entry(_job(suite), loop, Path(folder), rounds) for suite in Suite]


def main() -> None:
    """Print the figures."""
    for entry in run():
        print(f"{entry['bench']}: ours {entry['ours']:,.0f} {entry['unit']}, limit {entry['limit']:,.0f}")
        for name, figure in entry["peers"].items():
            floor = entry["floors"].get(name)
            goal = f"  (floor {floor:g})" if floor else ""
            print(f"    {name:28} {figure:12,.0f}   ours is {entry['ratios'][name]:6.2f} ×{goal}")


def _entry(job: Job, loop: Path | None, folder: Path, rounds: int) -> dict[str, Any]:
    runs: dict[str, Callable[[], float]] = {
        "ours": lambda: _cpu_rate(lambda: _verify(job), RECORDS),
        "cryptography per record": lambda: _cpu_rate(lambda: _verify_one_by_one(job), PEER_RECORDS),
        "limit": lambda: _cpu_rate(_blocks_alone(job), RECORDS),
    }
    if loop is not None:
        data = folder / f"{SUITE_LABELS[job.suite]}.bin"
        data.write_bytes(job.issuer_key + job.packed)
        runs["C loop over OpenSSL"] = lambda: _c_rate(loop, job, data)
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, measure in runs.items():
            samples[name].append(measure())
    figures = {name: statistics.median(values) for name, values in samples.items()}
    ours, limit = figures.pop("ours"), figures.pop("limit")
    ratios = {
        name: statistics.median(own / other for own, other in zip(samples["ours"], samples[name], strict=True))
        for name in figures
    }
    return {
        "bench": f"TAC verification, {SUITE_LABELS[job.suite]}",
        "unit": "records/s",
        "ours": ours,
        "peers": figures,
        "limit": limit,
        "ratios": ratios,
        "floors": {name: FLOORS[name] for name in figures},
    }


@contextmanager
def _one_core() -> Iterator[None]:
    """All of the block, and the processes that it starts, on one core: what else runs there
    slows ours and its peers alike."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cpu_rate(work: Callable[[], object], count: int) -> float:
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def _verify(job: Job) -> None:
    assert (job.verifier.verify(job.records) == Verdict.OK).all()


def _verify_one_by_one(job: Job) -> None:
    """What a competent page of Python does: derive, then MAC, two ciphers a record."""
    good = 0
    for at in range(0, 34 * PEER_RECORDS, 34):
        factor, message, tac = job.packed[at : at + 8], job.packed[at + 8 : at + 30], job.packed[at + 30 : at + 34]
        good += ONE_TAC[job.suite](job.issuer_key, factor, message) == tac
    assert good == PEER_RECORDS


def _triple_des_tac(issuer_key: bytes, factor: bytes, message: bytes) -> bytes:
    complement = bytes(octet ^ 255 for octet in factor)
    parent = Cipher(TripleDES(issuer_key + issuer_key[:8]), modes.ECB()).encryptor()  # noqa: S305 - two independent blocks
    card = parent.update(factor + complement)
    tac_key = bytes(left ^ right for left, right in zip(card[:8], card[8:], strict=True))
    mac = Cipher(TripleDES(tac_key * 3), modes.CBC(bytes(8))).encryptor()
    return mac.update(message + b"\x80\x00")[16:20]


def _sm4_tac(issuer_key: bytes, factor: bytes, message: bytes) -> bytes:
    parent = Cipher(SM4(issuer_key), modes.ECB()).encryptor()  # noqa: S305 - one block
    card = parent.update(factor + bytes(octet ^ 255 for octet in factor))
    mac = Cipher(SM4(card), modes.CBC(bytes(16))).encryptor()
    return mac.update(message + b"\x80" + bytes(9))[16:20]


ONE_TAC = {Suite.TRIPLE_DES: _triple_des_tac, Suite.SM4: _sm4_tac}


def _blocks_alone(job: Job) -> Callable[[], object]:
    """As many blocks as the verification has, in one call under one key each for derivation and MACs."""
    cards = len(np.unique(job.records["card"].view("V10")))
    if job.suite is Suite.TRIPLE_DES:
        derive = Cipher(TripleDES(job.issuer_key + job.issuer_key[:8]), modes.ECB()).encryptor()  # noqa: S305 - a yardstick
        # OpenSSL has no faster single DES than 3DES here: a third of the blocks of 3DES stand for those of DES.
        return lambda: (derive.update(bytes(16 * cards)), derive.update(bytes(8 * RECORDS)))
    derive = Cipher(SM4(job.issuer_key), modes.ECB()).encryptor()  # noqa: S305 - a yardstick
    return lambda: (derive.update(bytes(16 * cards)), derive.update(bytes(32 * RECORDS)))


def _job(suite: Suite) -> Job:
    root = RootKey(KeyId(suite, KeyPurpose.TAC, "1"), ROOT, test=True)
    issuer_key = _divide(root, ISSUER * 2)
    random = np.random.default_rng(7)
    weight = 1 / np.arange(1, CARDS + 1)
    holders = random.choice(CARDS, RECORDS, p=weight / weight.sum())
    records = np.zeros(RECORDS, RECORD_DTYPE)
    rows = octets(records)
    rows[:, 24:46] = random.integers(0, 256, (RECORDS, 22), np.uint8)
    rows[:, 14:22] = random.permutation(10**6)[holders].astype(">u8").view(np.uint8).reshape(-1, 8)
    rows[:, 8:12] = np.frombuffer(ISSUER, np.uint8)
    for name, value in (("version", 1), ("kind", Kind.DEBIT), ("suite", suite), ("key_version", 1), ("purse", 1)):
        records[name] = value
    for row in rows:
        tac = ONE_TAC[suite](issuer_key, row[14:22].tobytes(), row[24:46].tobytes())
        row[46:50] = np.frombuffer(tac, np.uint8)
    packed = np.concatenate((rows[:, 14:22], rows[:, 24:46], rows[:, 46:50]), axis=1).tobytes()
    return Job(suite, records, TacVerifier([root]), issuer_key, packed)


def _divide(root: RootKey, factor: bytes) -> bytes:
    return root.undiversified().child(factor).reveal()


def _compiled(folder: Path) -> Path | None:
    """The C peer, or None where it cannot be built."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    source, program = folder / "tac.c", folder / "tac"
    source.write_text(C_SOURCE)
    built = subprocess.run([compiler, "-O2", "-o", program, source, "-lcrypto"], capture_output=True, check=False)
    return program if built.returncode == 0 else None


def _c_rate(loop: Path, job: Job, data: Path) -> float:
    output = subprocess.run([loop, SUITE_LABELS[job.suite], data], capture_output=True, text=True, check=True).stdout
    good, seconds = output.split()
    assert int(good) == RECORDS
    return RECORDS / float(seconds)


if __name__ == "__main__":
    main()
