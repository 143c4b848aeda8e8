# Runs two session services of the staff VPN on one PostgreSQL. docs/hub.md says what the configuration needs.
# The sidecars are not here: each belongs to the OpenVPN server of its host (systemd/facilitator-hub-sidecar.service).

job "facilitator-hub-sessions" {
  type        = "service"
  datacenters = ["*"]

  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    healthy_deadline = "2m"
    auto_revert      = true
  }

  group "sessions" {
    count = 2 # with PostgreSQL; with SQLite it is 1, on a host volume

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    # A login waits 10 s for a service that is away, so a restart is hardly seen.
    restart {
      interval = "10m"
      attempts = 100
      delay    = "1s"
      mode     = "delay"
    }

    network {
      mode = "host"
      port "api" {
        static = 8443 # as sessions.listen
      }
      port "http" {
        static = 9465 # as sessions.http, which must be 0.0.0.0:9465 for Nomad's check; keep people out by a firewall
      }
    }

    service {
      name     = "facilitator-hub-sessions"
      provider = "nomad"
      port     = "api"

      check {
        name     = "ready"
        type     = "http"
        port     = "http"
        path     = "/readyz"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "sessions" {
      driver      = "exec"
      user        = "nobody"
      kill_signal = "SIGTERM"

      config {
        command = "/opt/facilitator/bin/facilitator-hub"
        args    = ["sessions", "-c", "${NOMAD_TASK_DIR}/config.yaml"]
      }

      template {
        destination = "local/config.yaml"
        data        = "{{ with nomadVar \"nomad/jobs/facilitator-hub-sessions\" }}{{ .config }}{{ end }}"
        change_mode = "restart"
      }

      # Read again when it changes: nobody is asked to log in for that.
      template {
        destination = "local/people.yaml"
        data        = "{{ with nomadVar \"nomad/jobs/facilitator-hub-sessions\" }}{{ .people }}{{ end }}"
        change_mode = "noop"
      }

      template {
        destination = "secrets/seeds.yaml"
        data        = "{{ with nomadVar \"nomad/jobs/facilitator-hub-sessions\" }}{{ .seeds }}{{ end }}"
        perms       = "0400"
        change_mode = "noop"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
