# Runs one facilitator on every client that is marked for it. How to prepare the clients, and where each value comes from: docs/deployment.md.

variable "secrets" {
  description = "Names of the secrets that the configuration mentions. Each is an item of the Nomad variable nomad/jobs/facilitator."
  type        = list(string)
  default     = ["pagerduty-routing-key", "acme-password", "own-cloud-ssh-key"]
}

job "facilitator" {
  type        = "system"
  datacenters = ["*"]

  constraint {
    attribute = "${meta.role}"
    value     = "facilitator"
  }

  # One host after the other, and back to the old version where the new one does not become ready (Nomad >= 1.11; before: max_parallel and stagger).
  update {
    max_parallel     = 1
    stagger          = "2m"
    health_check     = "checks"
    min_healthy_time = "30s"
    healthy_deadline = "5m"
    auto_revert      = true
  }

  group "facilitator" {
    # "fail" would leave the host without its tunnels until somebody looks.
    restart {
      interval = "10m"
      attempts = 10
      delay    = "5s"
      mode     = "delay"
    }

    network {
      mode = "host"
      port "http" {
        static = 9464 # as http.listen in the configuration
      }
    }

    service {
      name     = "facilitator"
      provider = "nomad"
      port     = "http"
      tags     = ["metrics", "prometheus.scheme=http", "prometheus.path=/metrics"]

      # About the daemon, never about one tunnel: a customer's outage must not make Nomad restart everybody's tunnels.
      check {
        name     = "ready"
        type     = "http"
        path     = "/readyz"
        interval = "10s"
        timeout  = "2s"
      }
    }

    task "facilitator" {
      driver = "raw_exec"

      # SIGTERM (Nomad's default would be SIGINT) begins the drain. Nomad waits this long, or the client's max_kill_timeout (30s unless raised), and
      # then kills the daemon with all clients: so drain.timeout (8h), and five minutes to log off.
      kill_signal    = "SIGTERM"
      kill_timeout   = "8h5m"
      shutdown_delay = "5s"

      # A template that changes while the daemon starts sends SIGHUP before there is a handler, which would end it: the shell has it ignored first.
      config {
        command = "/bin/sh"
        args = [
          "-c",
          "trap '' HUP; exec /opt/facilitator/bin/facilitator run -c \"$NOMAD_SECRETS_DIR/config.yaml\"",
        ]
      }

      template {
        data          = "{{ with nomadVar \"nomad/jobs/facilitator\" }}{{ .config }}{{ end }}"
        destination   = "secrets/config.yaml"
        perms         = "0600"
        change_mode   = "signal"
        change_signal = "SIGHUP"
        splay         = "10s"
      }

      dynamic "template" {
        for_each = var.secrets
        content {
          data          = "{{ with nomadVar \"nomad/jobs/facilitator\" }}{{ index . \"${template.value}\" }}{{ end }}"
          destination   = "secrets/${template.value}"
          perms         = "0600"
          change_mode   = "signal"
          change_signal = "SIGHUP"
          splay         = "10s"
        }
      }

      # All VPN clients count here; above memory_max the kernel ends one of them.
      resources {
        cpu        = 500
        memory     = 256
        memory_max = 1024
      }

      logs {
        max_files     = 5
        max_file_size = 20
      }
    }
  }
}
