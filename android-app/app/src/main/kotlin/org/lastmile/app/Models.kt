package org.lastmile.app

import android.app.Activity
import android.content.Context
import android.system.Os
import android.util.Log
import java.io.File
import kotlin.concurrent.thread
import org.lastmile.inference.Artifact
import org.lastmile.inference.Engines
import org.lastmile.inference.writeAtomically

/** The artifacts available to the app: those bundled in the APK and those pushed to its folder with adb. */
object Models {
    private const val PRIVATE = 448 // 0700

    /**
     * Every valid artifact. Those whose runtime is available come first, and among them those bundled in the APK. An invalid
     * artifact is logged and skipped; the host reports it. It copies files: call it in a background thread.
     */
    @Synchronized
    fun all(context: Context): List<Artifact> {
        val pushed = context.getExternalFilesDir("models")?.listFiles().orEmpty().sortedBy { it.name }
        val bundled = logFailure { unpackBundled(context) }.orEmpty()
        return (bundled + pushed).mapNotNull { logFailure { Artifact.read(it) } }.partition(::canRun).let { (runnable, others) -> runnable + others }
    }

    private fun canRun(artifact: Artifact) = attempt { Engines.forFile(artifact.file.name).unavailable() == null }.getOrDefault(false)

    private fun <T> logFailure(body: () -> T): T? = attempt(body).onFailure { Log.w("Lastmile", oneLine(it)) }.getOrNull()

    /** Unpacks the artifacts bundled in the APK, because the runtimes need files. Done once per installation. Returns their folders. */
    private fun unpackBundled(context: Context): List<File> {
        // Keyed by installation time: a rebuilt app may have the same version.
        val folder = File(context.noBackupFilesDir, "models-${context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime}")
        context.noBackupFilesDir
            .listFiles()
            .orEmpty()
            .filter { it.name.startsWith("models-") && it != folder }
            .forEach { it.deleteRecursively() }
        folder.mkdirs()
        Os.chmod(folder.path, PRIVATE) // weights are nobody else's business, whatever the umask
        // Robolectric also lists the files in subfolders.
        val names = context.assets.list("models").orEmpty().map { it.substringBefore('/') }.distinct().sorted()
        for (name in names) {
            val artifact = File(folder, name).also { it.mkdirs() }
            for (file in context.assets.list("models/$name").orEmpty()) {
                val target = File(artifact, file)
                if (!target.exists()) writeAtomically(target) { out -> context.assets.open("models/$name/$file").use { it.copyTo(out) } }
            }
        }
        return names.map { File(folder, it) }
    }
}

/** The artifacts of a page, read in a background thread. */
class ModelList(private val activity: Activity) {
    /** Empty until they are read. */
    var artifacts: List<Artifact> = emptyList()
        private set
    private var closed = false

    /** Reads them and calls [onLoaded] in the UI thread, unless the page was closed before. */
    fun load(onLoaded: (List<Artifact>) -> Unit) {
        thread(name = "models") {
            val found = Models.all(activity.applicationContext)
            activity.runOnUiThread {
                if (!closed) {
                    artifacts = found
                    onLoaded(found)
                }
            }
        }
    }

    /** Nothing is shown any more. */
    fun close() {
        closed = true
    }
}
