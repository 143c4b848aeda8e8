# What a fleet needs in a VPC: permission to write its routes, and interfaces that may forward.
# Not tried in a real account.

variable "instances" { type = map(object({ ami = string, subnet = string })) } # by the names of the members
variable "route_table" { type = string }

resource "aws_iam_role" "facilitator" {
  name = "facilitator"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "routes" {
  role   = aws_iam_role.facilitator.id
  policy = file("${path.module}/policy.json")
}

resource "aws_iam_instance_profile" "facilitator" {
  name = "facilitator"
  role = aws_iam_role.facilitator.name
}

resource "aws_ec2_tag" "facilitator" { # policy.json allows route tables with this tag
  resource_id = var.route_table
  key         = "facilitator"
  value       = "emea"
}

resource "aws_instance" "member" {
  for_each               = var.instances
  ami                    = each.value.ami
  instance_type          = "t3.small"
  subnet_id              = each.value.subnet
  source_dest_check      = false # it forwards for others
  iam_instance_profile   = aws_iam_instance_profile.facilitator.name
  metadata_options {
    http_tokens                 = "required" # IMDSv2
    http_put_response_hop_limit = 1
  }
  tags = { Name = each.key }
}
