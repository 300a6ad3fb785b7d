# frozen_string_literal: true

# A producer and two processes of Sidekiq with its own settings.
require_relative "sidekiq_jobs"

# Seconds between two jobs, and for the workers to finish.
PAUSE = 0.1
REST = 6

ended = false
event("producer", 0, "note", "Sidekiq #{Sidekiq::VERSION}, redis-rb #{Redis::VERSION}")
workers = [0, 1].map do |number|
  jobs = File.join(__dir__, "sidekiq_jobs.rb")
  command = ["sidekiq", "--require", jobs, "--concurrency", "2"]
  pid = Process.spawn({ "WORKER" => number.to_s }, *command, in: File::NULL)
  Thread.new do
    _, status = Process.wait2(pid)
    event("worker", number, "error", "the worker ended: #{status}") unless ended
  end
  pid
end
Thread.new do
  number = 0
  until ended
    number += 1
    begin
      Work.perform_async(number)
      event("producer", 0, "added", number)
    rescue StandardError => e
      event("producer", 0, "error", "#{e.class}: #{e.message}")
    end
    sleep PAUSE
  end
end
$stdin.read
ended = true
sleep REST
workers.each { |pid| Process.kill(:KILL, pid) rescue nil }
exit!(0)
