#!/bin/sh
# Puts what systemd needs onto this host, or takes it away: `make install` and `make uninstall` call it, as root, with the virtual environment
# at /opt/facilitator already (still) there. Each may be repeated. DESTDIR=... puts the files elsewhere, for a package, and starts nothing.
#
#   setup.sh install                the units, the user, the directories, and examples in /usr/local/share; a configuration is never replaced
#   setup.sh install --nomad        for a host whose daemon Nomad starts: only the unit that closes the host at boot, and the user
#   setup.sh install --hub          for a host of the staff VPN: the units of session service and sidecar, user and example, nothing of the daemon
#   setup.sh uninstall [--purge]    all of that; --purge: /etc/facilitator, the state and the user as well
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
units=$root/etc/systemd/system
unit=$units/facilitator.service
closed=facilitator-closed.service
examples=$root/usr/local/share/facilitator

runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }     # systemd(1), sd_booted(3)

install_hub() {
    for service in sessions sidecar; do
        install -D -m 0644 "$here/facilitator-hub-$service.service" "$units/facilitator-hub-$service.service"
    done
    install -D -m 0644 "$here/facilitator-hub.sysusers.conf" "$root/etc/sysusers.d/facilitator-hub.conf"
    install -D -m 0644 "$here/facilitator-hub.tmpfiles.conf" "$root/etc/tmpfiles.d/facilitator-hub.conf"
    for example in facilitator-hub.yaml openvpn-server.conf; do
        install -D -m 0644 "$here/../examples/$example" "$examples/$example"
    done
    [ -n "$root" ] || systemd-sysusers
    install -d -m 0750 "$root/etc/facilitator-hub"
    [ -n "$root" ] || chgrp facilitator-hub /etc/facilitator-hub
    if runs; then
        systemd-tmpfiles --create /etc/tmpfiles.d/facilitator-hub.conf
        systemctl daemon-reload
    fi
}

uninstall_hub() {
    for service in sessions sidecar; do
        name=facilitator-hub-$service.service
        if runs && [ -e "$units/$name" ]; then systemctl disable --now --quiet "$name"; fi
        rm -f "$units/$name"
    done
    rm -f "$root/etc/sysusers.d/facilitator-hub.conf" "$root/etc/tmpfiles.d/facilitator-hub.conf"
}

case ${1:-} in
install)
    if [ "${2:-}" = --hub ]; then
        install_hub
        exit
    fi
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
    uninstall_hub
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
            "$root/run/facilitator" "$root/etc/facilitator-hub" "$root/var/lib/facilitator-hub"
        for user in facilitator facilitator-hub; do
            if [ -z "$root" ] && id "$user" >/dev/null 2>&1; then userdel "$user"; fi
        done
    else
        echo "Kept: /etc/facilitator, /var/lib/facilitator, /var/log/facilitator what belongs to facilitator-hub, and the users (make uninstall PURGE=1 removes them too)."
    fi
    ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
