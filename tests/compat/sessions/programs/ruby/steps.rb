# frozen_string_literal: true

# What the Ruby programs have in common: where Redis is, and how an outcome is printed.
require "redis"
require "timeout"

PORT = ENV.fetch("REDIS_PORT").to_i
PASSWORD = ENV.fetch("REDIS_PASSWORD")
INDEX = ENV.fetch("REDIS_INDEX").to_i
URL = "redis://:#{PASSWORD}@127.0.0.1:#{PORT}/#{INDEX}"
$stdout.sync = true

def show(name, outcome)
  text = outcome.is_a?(String) ? outcome : outcome.inspect
  $stdout.write("#{name}: #{text.split.join(' ')}\n")
end

# Runs a step, and prints what it returns or raises.
def step(name)
  outcome =
    begin
      Timeout.timeout(60) { yield }
    rescue StandardError => e
      "#{e.class} #{e.message}"
    end
  show(name, outcome)
end

def wait_until(limit = 50)
  finish = Time.now + limit
  while Time.now < finish
    found = yield
    return found if found

    sleep 0.01
  end
  nil
end
