<?php

// What the PHP programs have in common: where Redis is, and how an outcome is printed.
$port = (int) getenv('REDIS_PORT');
$password = getenv('REDIS_PASSWORD');
$index = (int) getenv('REDIS_INDEX');

function show(string $name, mixed $outcome): void
{
    $text = is_string($outcome) ? $outcome : json_encode($outcome, JSON_UNESCAPED_SLASHES | JSON_PARTIAL_OUTPUT_ON_ERROR);
    fwrite(STDOUT, $name . ': ' . preg_replace('/\s+/', ' ', $text) . "\n");
}

/** Runs a step, and prints what it returns or throws. */
function step(string $name, callable $body): void
{
    try {
        $outcome = $body();
    } catch (Throwable $error) {
        $outcome = get_class($error) . ' ' . $error->getMessage();
    }
    show($name, $outcome);
}

/** Runs a function in a process of its own, after some milliseconds. */
function later(int $milliseconds, callable $body): void
{
    $file = $GLOBALS['argv'][0];
    if (!function_exists('pcntl_fork')) {
        throw new Exception("pcntl is missing: $file needs it");
    }
    if (pcntl_fork() === 0) {
        usleep($milliseconds * 1000);
        $body();
        posix_kill(getmypid(), SIGKILL);
    }
}
