# frozen_string_literal: true

# The job of the Sidekiq workers, where Redis is, and how an event is printed.
require "sidekiq"

def event(role, client, kind, rest = "")
  text = rest.to_s.split.join(" ")[0, 200]
  IO.new(1, autoclose: false).syswrite("#{format('%.3f', Time.now.to_f)} #{role} #{client} #{kind} #{text}".rstrip + "\n")
end

password, index = ENV.values_at("REDIS_PASSWORD", "REDIS_INDEX")
if ENV["REDIS_SENTINELS"]
  sentinels = ENV["REDIS_SENTINELS"].split(",").map { |place| { host: place.split(":")[0], port: place.split(":")[1].to_i } }
  settings = { url: "redis://#{ENV['REDIS_MASTER']}", sentinels: sentinels, role: :master, password: password, db: index.to_i }
else
  settings = { url: "redis://:#{password}@127.0.0.1:#{ENV['REDIS_PORT']}/#{index}" }
end
Sidekiq.configure_server { |config| config.redis = settings }
Sidekiq.configure_client { |config| config.redis = settings }

class Work
  include Sidekiq::Worker

  def perform(number)
    event("worker", ENV["WORKER"], "did", number)
  end
end
