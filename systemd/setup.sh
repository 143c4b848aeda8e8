#!/bin/sh
# Puts what systemd needs onto this host, or takes it away: `make install` and `make uninstall` call it, as root, with the virtual environment
# at /opt/facilitator already (still) there. Each may be repeated. DESTDIR=... puts the files elsewhere, for a package, and starts nothing.
#
#   setup.sh install                the units, the user, the directories, and examples in /usr/local/share; a configuration is never replaced
#   setup.sh install --nomad        for a host whose daemon Nomad starts: only the unit that closes the host at boot, and the user
#   setup.sh uninstall [--purge]    all of that; --purge: /etc/facilitator, the state and the user as well
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
units=$root/etc/systemd/system
unit=$units/facilitator.service
closed=facilitator-closed.service
examples=$root/usr/local/share/facilitator

runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }     # systemd(1), sd_booted(3)

case ${1:-} in
install)
    install -D -m 0644 "$here/$closed" "$units/$closed"
    install -D -m 0644 "$here/facilitator.sysusers.conf" "$root/etc/sysusers.d/facilitator.conf"
    # Enabled, as `systemctl enable` does it, which has no say over a package's files.
    install -d "$units/sysinit.target.wants"
    ln -sf "../$closed" "$units/sysinit.target.wants/$closed"
    if [ "${2:-}" = --nomad ]; then
        if [ -z "$root" ]; then systemd-sysusers; fi
        if runs; then systemctl daemon-reload; fi
        exit
    fi
    install -D -m 0644 "$here/facilitator.service" "$unit"
    install -D -m 0644 "$here/facilitator.tmpfiles.conf" "$root/etc/tmpfiles.d/facilitator.conf"
    for example in "$here"/drop-ins/*.conf "$here/../config.example.yaml"; do
        install -D -m 0644 "$example" "$examples/${example##*/}"
    done
    [ -n "$root" ] || systemd-sysusers
    if [ ! -e "$root/etc/facilitator/config.yaml" ]; then
        install -d -m 0755 "$root/etc/facilitator"
        install -m 0640 "$here/first-config.yaml" "$root/etc/facilitator/config.yaml"
        [ -n "$root" ] || chgrp facilitator /etc/facilitator/config.yaml
    fi
    if runs; then
        systemd-tmpfiles --create /etc/tmpfiles.d/facilitator.conf
        systemctl daemon-reload
    fi
    ;;
uninstall)
    if runs && [ -e "$unit" ]; then
        echo "Stopping it: connections that are open may end by themselves first; \`facilitator drain --now\` does not wait for them."
        systemctl disable --now --quiet facilitator.service
    fi
    if [ -z "$root" ] && [ -x /opt/facilitator/bin/facilitator ]; then
        /opt/facilitator/bin/facilitator cleanup
    fi
    if runs && [ -e "$units/$closed" ]; then systemctl stop --quiet "$closed"; fi
    rm -f "$unit" "$units/$closed" "$units/sysinit.target.wants/$closed" "$root/etc/sysusers.d/facilitator.conf" "$root/etc/tmpfiles.d/facilitator.conf"
    rm -rf "$root/opt/facilitator" "$examples"
    if runs; then systemctl daemon-reload; fi
    if [ "${2:-}" = --purge ]; then
        rm -rf "$root/etc/facilitator" "$root/etc/systemd/system/facilitator.service.d" "$root/var/lib/facilitator" "$root/var/log/facilitator" \
            "$root/run/facilitator"
        if [ -z "$root" ] && id facilitator >/dev/null 2>&1; then userdel facilitator; fi
    else
        echo "Kept: /etc/facilitator, /var/lib/facilitator, /var/log/facilitator and the user (make uninstall PURGE=1 removes them too)."
    fi
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
