package org.lastmile.app

import android.content.Context
import android.util.Log
import java.io.File
import org.lastmile.inference.Artifact
import org.lastmile.inference.Engines

/** The artifacts that the app knows: those inside the APK, and those that adb pushed into its own folder. */
object Models {
    /**
     * Every artifact that can be read: first those whose runtime is here, of these first the ones inside the APK. A broken
     * one is passed over here and named by the host.
     */
    fun all(context: Context): List<Artifact> {
        val pushed = context.getExternalFilesDir("models")?.listFiles().orEmpty().sortedBy { it.name }
        val inside = passed { inside(context) }.orEmpty()
        return (inside + pushed).mapNotNull { passed { Artifact.read(it) } }.partition(::runs).let { (here, elsewhere) -> here + elsewhere }
    }

    private fun runs(artifact: Artifact) = attempt { Engines.forFile(artifact.file.name).missing() == null }.getOrDefault(false)

    private fun <T> passed(body: () -> T): T? = attempt(body).onFailure { Log.w("Lastmile", line(it)) }.getOrNull()

    /** Folders of the artifacts inside the APK, unpacked once for each installation: runtimes want files. */
    private fun inside(context: Context): List<File> {
        // Not by the app's version, which a rebuilt app may share with the one before.
        val home = File(context.noBackupFilesDir, "models-${context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime}")
        context.noBackupFilesDir
            .listFiles()
            .orEmpty()
            .filter { it.name.startsWith("models-") && it != home }
            .forEach { it.deleteRecursively() }
        // Robolectric lists what lies in a folder's folders, too.
        val names = context.assets.list("models").orEmpty().map { it.substringBefore('/') }.distinct().sorted()
        for (name in names) {
            val folder = File(home, name).also { it.mkdirs() }
            for (file in context.assets.list("models/$name").orEmpty()) {
                val target = File(folder, file)
                if (!target.exists()) writeWhole(target) { out -> context.assets.open("models/$name/$file").use { it.copyTo(out) } }
            }
        }
        return names.map { File(home, it) }
    }
}
