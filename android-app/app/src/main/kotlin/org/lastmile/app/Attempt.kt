package org.lastmile.app

/** What [body] gives, or what it failed by: other apps, disks, runtimes and scarce memory throw what they like, and none may end the app. */
internal inline fun <T> attempt(body: () -> T): Result<T> =
    try {
        Result.success(body())
    } catch (error: Exception) {
        Result.failure(error)
    } catch (error: OutOfMemoryError) {
        Result.failure(error)
    }

/** What a failure says to people, in one line. */
internal fun line(error: Throwable): String =
    if (error is OutOfMemoryError) {
        "the phone's memory is not enough for it"
    } else {
        error.message.orEmpty().lineSequence().map { it.trim() }.find { it.isNotEmpty() } ?: "$error"
    }
