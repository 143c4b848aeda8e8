# Everything that one does with this repository. `make` alone explains itself.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
OPT := /opt/facilitator
LATEST := .venv-latest

# What is installed is locked: these versions with these hashes, as wheels. `make lock` writes the lock. Then comes this checkout alone.
PIP := -m pip --quiet --disable-pip-version-check
LOCKED := $(PIP) install --require-hashes --requirement
OURSELVES := $(PIP) install --no-deps --no-build-isolation

# The interpreter for the virtual environment: Debian's own if it is new enough, else the one in PATH.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(firstword $(foreach python,/usr/bin/python3 python3 python3.13 python3.12 python3.11,\
	$(shell $(python) $(NEW_ENOUGH) 2>/dev/null && command -v $(python))))

CHARON := /usr/lib/ipsec/plugins/libstrongswan-
# PROGRAM:PACKAGE (or PROGRAM alone) that the lab runs, that other kinds of tunnels need, and that the tests run beside it.
LAB_PROGRAMS := openvpn sshd:openssh-server ssh:openssh-client nft:nftables ip:iproute2 mount tcpdump ps:procps curl openssl \
	unshare:util-linux
KIND_PROGRAMS := wireguard-go openconnect ocserv vpnc charon-systemd swanctl:strongswan-swanctl \
	$(CHARON)openssl.so:libstrongswan-standard-plugins $(CHARON)kernel-libipsec.so:libcharon-extra-plugins \
	$(CHARON)xauth-generic.so:libcharon-extauth-plugins $(BROWSER)
TEST_PROGRAMS := ping:iputils-ping unbound dig:bind9-dnsutils conntrack iptables-nft:iptables psql:postgresql promtool:prometheus prometheus-alertmanager mmdebstrap \
	systemd-nspawn:systemd-container node:nodejs npm openfortivpn $(FLEET_PROGRAMS) $(KIND_PROGRAMS)
FLEET_PROGRAMS := bird:bird2 etcd:etcd-server etcdctl:etcd-client bridge:iproute2 keepalived

# What looks at the status page.
BROWSER := chromium /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf:fonts-dejavu-core npm

# Without compiled modules each worker of pytest rewrites and compiles all tests anew: 5 s of CPU time.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
ROOT := $(filter 0,$(shell id -u))
QUICK := not root and not nspawn and not slow
TEST = .ci/passes 'make test' 'unit style' slow
ifdef ROOT
TEST = .ci/passes 'make test' 'unit style machine' together alone
endif

.DEFAULT_GOAL := help
.PHONY: help setup lab-programs test-programs check style ruff layers types names unit slow machine together alone test demo fleet hub soak bench lab docs \
	screenshots lock latest build deb release interpreter install uninstall clean

help: ## show this list
	@echo 'make TARGET, where TARGET is one of:'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12
	@echo 'Each does all the set-up that it needs, in $(VENV)/ and, as root on Debian, with apt. PYTHON=... chooses the interpreter.'

setup: $(READY) test-programs ## the virtual environment and the Debian packages

interpreter:
	@if [ -z '$(PYTHON)' ]; then echo 'Python 3.11 or newer is needed and not found: say make PYTHON=/path/to/python3'; exit 1; fi
	@$(PYTHON) $(NEW_ENOUGH) || { echo '$(PYTHON) is older than Python 3.11: say make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/packages python3-venv

$(READY): setup.cfg setup.py pyproject.toml requirements/development.txt | interpreter
	@echo 'Installing into $(VENV) with $(PYTHON)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(LOCKED) requirements/development.txt
	@$(BIN)/python $(OURSELVES) --editable .
	@touch $@

lab-programs:
	@.ci/packages $(LAB_PROGRAMS)

test-programs:
	@.ci/packages $(LAB_PROGRAMS) $(TEST_PROGRAMS)
	@.ci/consul >/dev/null

check: $(READY) ## style, types, layers and the tests that need no root (under a minute)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target unit style

style: ruff layers types names

ruff: $(READY)
	$(BIN)/ruff check .

names: $(READY)
	$(BIN)/python .ci/class-names

layers: $(READY)
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest -n 2 -m '$(QUICK)'

slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m 'slow and not root'

machine: $(READY)
	@$(BIN)/python -m tests.packaging.container

together: $(READY)
	.ci/repeated -n 6 --dist worksteal -m '(root or nspawn or slow) and not timed'

alone: $(READY)
	.ci/repeated -n 3 -m timed

test: test-programs $(READY) ## check, and as root the tests with real VPN servers, a real kernel and a real systemd
	@$(TEST)
ifndef ROOT
	@echo
	@echo 'SKIPPED, because they need root (they make network namespaces and containers): run `sudo make test` for these'
	@$(BIN)/python -m pytest --collect-only -qq -m 'root or nspawn'
endif

demo: lab-programs $(READY) ## watch two tunnels break and heal in a private network with real servers (root)
	@$(BIN)/python -m tests.lab.demo

fleet: lab-programs $(READY) ## watch two facilitators act as one: drain, kill, freeze, lock engine away (root)
	@.ci/packages $(FLEET_PROGRAMS)
	@$(BIN)/python -m tests.lab.fleet_demo

hub: $(READY) ## watch the staff VPN: logins, offboarding, a drain, sidecar and session service killed (root)
	@$(BIN)/python -m tests.hub.demo

lab: lab-programs $(READY) ## the same network to play with: shells, logs, faults by hand (root)
	@$(BIN)/python -m tests.lab

soak: test-programs $(READY) ## a thousand examples of each property, a hundred flaps of each kind, twenty crashes and upgrades (root, many minutes)
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m 'not root and not nspawn'
	$(BIN)/python -m pytest tests/system/test_flaps.py --flaps=100 -rA
	$(BIN)/python -m pytest tests/system/test_blame.py -k flaps --flap-seconds=20 -rA
	$(BIN)/python -m pytest tests/system/test_takeover.py --takeovers=20 -rA

bench: lab-programs $(READY) ## measure reaction times and the daemon's resource usage (root)
	@.ci/packages iperf3 ping:iputils-ping $(KIND_PROGRAMS)
	@$(BIN)/python -m tests.bench

docs: $(READY) ## regenerate the generated parts of docs/
	$(BIN)/python -m supervisor.config.schema > docs/config.schema.json
	$(BIN)/python -m supervisor.control.openapi schema > docs/api.schema.json
	$(BIN)/python -m supervisor.control.openapi routes > docs/openapi.json
	$(BIN)/python -m hub.core.openapi > docs/hub.openapi.json
	$(BIN)/python -m tests.config.tables
	$(BIN)/python -m tests.architecture.document

screenshots: $(READY) ## pictures of the status page, into docs/screenshots/
	@.ci/packages $(BROWSER)
	@$(BIN)/python -m tests.page.screenshots docs/screenshots

lock: $(READY) ## regenerate requirements/ from setup.cfg; versions that still fit stay, UPGRADE=1 takes the newest of all
	@UV=$(BIN)/uv .ci/lock $(if $(UPGRADE),--upgrade)

build: $(READY) ## an sdist and a wheel in dist/, with the version that `git describe` gives this checkout
	@rm -rf build dist
	@$(BIN)/python -m build --quiet --no-isolation . >/dev/null
	@ls dist/*

deb: interpreter ## a Debian package in dist/, for the Debian that it is built on
	@debian/build

release: $(READY) ## tag VERSION=x.y.z and build it; says what is still missing and does nothing then. DRY_RUN=1 leaves no tag
	@BIN=$(BIN) .ci/release '$(VERSION)' $(if $(DRY_RUN),--dry-run)

latest: interpreter ## check against the newest version of every dependency, in a virtual environment of its own, and what broke
	@rm -rf $(LATEST)
	@$(PYTHON) -m venv $(LATEST)
	@.ci/latest $(LATEST)

install: interpreter ## install into /opt/facilitator, with units, user and a configuration without tunnels (root); repeat it to upgrade. NOMAD=1 without unit and configuration, HUB=1 for the staff VPN's units instead
	@[ "$$(id -u)" = 0 ] || { echo 'It writes to /opt and /etc: say sudo make install'; exit 1; }
	@[ -x $(OPT)/bin/python ] || $(PYTHON) -m venv $(OPT)
	@$(OPT)/bin/python $(LOCKED) requirements/runtime.txt
	@$(OPT)/bin/python $(OURSELVES) .
	@systemd/setup.sh install $(if $(HUB),--hub,$(if $(NOMAD),--nomad))
	@$(OPT)/bin/facilitator --version
	@echo $(if $(HUB),'Next: /etc/facilitator-hub/config.yaml and docs/hub.md. For the daemon:','Next:') '/etc/facilitator/config.yaml, facilitator check, facilitator doctor, systemctl enable --now facilitator (docs/deployment.md).'
	@echo 'A daemon that runs takes the new code over with: facilitator upgrade'

uninstall: ## stop it, and remove all but configuration and history; PURGE=1 removes these too (root)
	@[ "$$(id -u)" = 0 ] || { echo 'It removes from /opt and /etc: say sudo make uninstall'; exit 1; }
	@systemd/setup.sh uninstall $(if $(PURGE),--purge)

clean: ## remove everything that make has made here
	rm -rf $(VENV) $(LATEST) build dist .cache *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
