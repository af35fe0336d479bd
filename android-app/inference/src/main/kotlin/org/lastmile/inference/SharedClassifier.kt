package org.lastmile.inference

import java.io.Closeable
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import kotlin.concurrent.thread
import kotlin.coroutines.suspendCoroutine

/** A loaded classifier for any number of threads: one call runs at a time, and none after [close]. */
class SharedClassifier(val artifact: Artifact, options: Options = Options()) : Closeable {
    private var classifier: Classifier? = Classifier(artifact, options)

    /** Calls [body] with the classifier. Throws an [InferenceException] if it is closed. */
    @Synchronized
    fun <T> use(body: (Classifier) -> T): T = body(classifier ?: throw InferenceException("${artifact.title} is closed"))

    /** Waits for the call that runs, then frees the model's memory. Closing it again does nothing. */
    @Synchronized
    override fun close() {
        classifier?.close()
        classifier = null
    }
}

/** Coroutines without the library kotlinx.coroutines. */
object Background {
    private val threads: ExecutorService =
        Executors.newCachedThreadPool { thread(start = false, isDaemon = true, name = "lastmile") { it.run() } }

    /** Runs [body] in a background thread; the coroutine is suspended meanwhile. Cancelling it does not interrupt [body]. */
    suspend fun <T> run(body: () -> T): T = suspendCoroutine { continuation -> threads.execute { continuation.resumeWith(runCatching(body)) } }
}
