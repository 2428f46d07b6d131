#!/usr/bin/env bash
# Installs the real parts that the tests drive, as root or through sudo; says plainly what is missing where neither is possible.
set -euo pipefail
wanted=(
    pcscd vsmartcard-vpcd       # the PC/SC daemon and its virtual readers
    gcc libpcsclite-dev         # pyscard has no Linux wheel and is built
    softhsm2                    # a token for the PKCS#11 key store
    opensc pcsc-tools           # strangers' programs that look at our card
    hledger                     # a stranger's double entry over our books
)
python="${PYTHON:-python3}"
"$python" -c 'import sysconfig, pathlib; raise SystemExit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' \
    || wanted+=(python3-dev)
missing=()
for package in "${wanted[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ]; then as_root=(); elif sudo -n true 2>/dev/null; then as_root=(sudo -n); else
    echo "The tests need these Debian packages, and this user may not install them: ${missing[*]}"
    echo "Ask an administrator for: apt-get install --no-install-recommends ${missing[*]}"
    exit 1
fi
echo "installing ${missing[*]} …"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update --quiet=2
"${as_root[@]}" apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null
