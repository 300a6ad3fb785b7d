# frozen_string_literal: true

# A session of Sidekiq: one process, jobs of now and later, retries, and what its pages show.
require "sidekiq/api"
require_relative "sidekiq_jobs"

show("version", Sidekiq::VERSION)
jobs = File.join(__dir__, "sidekiq_jobs.rb")
pid = Process.spawn("sidekiq", "--require", jobs, "--concurrency", "5", in: File::NULL, out: File::NULL)

def results(count)
  wait_until { Sidekiq.redis { |redis| redis.llen("results") } >= count }
  Sidekiq.redis do |redis|
    found = redis.lrange("results", 0, -1).map(&:to_i).sort
    redis.del("results")
    found
  end
end

step("processes") do
  wait_until { Sidekiq::ProcessSet.new.size.positive? }
  Sidekiq::ProcessSet.new.map { |process| [process["concurrency"], process["queues"]] }
end
step("a job") do
  Add.perform_async(1, 2)
  results(1)
end
step("many jobs at once") do
  Sidekiq::Client.push_bulk("class" => Add, "args" => (1..100).map { |number| [number, 0] })
  results(100).sum
end
step("a job of later") do
  Add.perform_in(0.2, 2, 2)
  wait_until { Sidekiq::ScheduledSet.new.size.positive? }
  Sidekiq::ScheduledSet.new.each(&:add_to_queue)
  results(1)
end
step("a job that is tried again") do
  Fails.perform_async
  wait_until { Sidekiq::RetrySet.new.size.positive? || Sidekiq.redis { |redis| redis.get("tries") } == "2" }
  Sidekiq::RetrySet.new.each(&:retry)
  wait_until { Sidekiq.redis { |redis| redis.get("tries") } == "2" }
end
step("statistics") do
  wait_until { Sidekiq::Stats.new.processed >= 104 }
  stats = Sidekiq::Stats.new
  [stats.processed, stats.failed, stats.enqueued, stats.scheduled_size]
end
step("the server's facts") { Sidekiq.redis_info.key?("redis_version") }
step("the process ends") do
  Process.kill(:TERM, pid)
  Process.wait2(pid)[1].exitstatus
end
