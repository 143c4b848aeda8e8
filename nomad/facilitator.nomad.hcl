# Runs one facilitator on every client that is marked for it. Needs Nomad 1.8; for 1.6 and 1.7 there is facilitator-1.6.nomad.hcl.
# How to prepare the clients, and where each value comes from: docs/deployment.md.

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

  constraint {
    attribute = "${attr.nomad.version}"
    operator  = "semver"
    value     = ">= 1.8.0"
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
    # "fail" would leave the host without its tunnels until somebody intervenes. The clients keep running meanwhile.
    restart {
      interval = "10m"
      attempts = 100
      delay    = "1s"
      mode     = "delay"
    }

    # A client that loses contact with the servers keeps its facilitator, and the same one continues when contact is restored.
    disconnect {
      lost_after = "24h"
      replace    = false
      reconcile  = "keep_original"
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

      # SIGTERM (Nomad's default would be SIGINT). The daemon asks Nomad why: a restart or a new version hands everything over to the next daemon,
      # a stop or a node drain waits for active flows: drain.timeout (8h), and five minutes to log off. Nomad waits as long as this, or as
      # the client's max_kill_timeout (30s unless raised). Set a shutdown_delay if the host has to be deregistered from a load balancer first.
      kill_signal  = "SIGTERM"
      kill_timeout = "8h5m"

      # The daemon asks the task API with this identity. With ACLs it needs the capability read-job: docs/deployment.md.
      identity {
        file = true
      }

      config {
        command = "/opt/facilitator/bin/facilitator"
        args    = ["run", "--watch", "-c", "${NOMAD_SECRETS_DIR}/config.yaml"]
      }

      # Nothing is signalled: the daemon notices changed files by itself (--watch).
      template {
        data        = "{{ with nomadVar \"nomad/jobs/facilitator\" }}{{ .config }}{{ end }}"
        destination = "secrets/config.yaml"
        perms       = "0600"
        change_mode = "noop"
      }

      dynamic "template" {
        for_each = var.secrets
        content {
          data        = "{{ with nomadVar \"nomad/jobs/facilitator\" }}{{ index . \"${template.value}\" }}{{ end }}"
          destination = "secrets/${template.value}"
          perms       = "0600"
          change_mode = "noop"
        }
      }

      # The daemon alone: its VPN clients have a control group of their own. memory_max needs memory oversubscription: docs/deployment.md.
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
