# frozen_string_literal: true

# The jobs of the Sidekiq process and of the session.
require "sidekiq"
require_relative "steps"

Sidekiq.configure_server { |config| config.redis = { url: URL } }
Sidekiq.configure_client { |config| config.redis = { url: URL } }

class Add
  include Sidekiq::Worker

  def perform(one, other)
    Sidekiq.redis { |redis| redis.rpush("results", one + other) }
  end
end

class Fails
  include Sidekiq::Worker
  sidekiq_options retry: 1
  sidekiq_retry_in { 0 }

  def perform
    tries = Sidekiq.redis { |redis| redis.incr("tries") }
    raise "no" if tries < 2
  end
end
